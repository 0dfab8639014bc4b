"""Compile a config's train program for a TPU slice: what it needs of a chip, and what would fit."""
import copy
import importlib.util
import math
import os
import time

import jax
from jax.experimental import topologies

from karpjax.core import sharding
from karpjax.core.errors import UserError
from karpjax.precompile import hlo
from karpjax.run import cli
from karpjax.run.cadence import steps_to_event
from karpjax.run.chips import CHIPS
from karpjax.run.experiment import assemble
from karpjax.run.programs import WholePrograms, abstract_arrays, make_programs, step_flops

# libtpu looks for the TPU of its machine, complains of finding none, and would let only one process
# at a time look.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
         "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
STATE = ("params", "opt_state", "ema", "ema_state", "model_state", "source")


def precompile(config, task_file, topology: str) -> dict:
    """Return what the compiler reports of the config's train program on that slice.

    The default backend must be the CPU by now. Keys: chips, batch_size, model_fields, program,
    usable (bytes of a chip), flops, state and data (bytes a chip), fits; of a program that
    compiles also memory, seconds, collectives and, if all its loops can be counted, step; of
    another "refused".
    """
    chip = topology.split(":")[0]
    mesh = sharding.make_mesh(**config.mesh, devices=slice_devices(topology))
    exp = assemble(config, task_file, mesh)
    exp.config.dispatch = exp.config.dispatch or "scan"
    programs = make_programs(exp)
    arrays = abstract_arrays(exp)
    if not isinstance(programs, WholePrograms):
        raise UserError("expected a step that is one program, found several with config.parallel = "
                        f"{exp.config.parallel!r}, dispatch = {exp.config.dispatch!r}; use "
                        "parallel = 'jit', dispatch = 'scan'")
    steps = steps_to_event(exp.config, exp.source.steps_per_chunk, programs.longest, step=0)
    device = mesh.devices.flat[0].device_kind
    report = {
        "chips": mesh.size, "batch_size": exp.source.batch_size,
        "model_fields": [*vars(exp.task.model)],
        "program": f"{steps} steps of {exp.source.batch_size} on {mesh.size} x {device}, "
                   f"{topology}, mesh {dict(mesh.shape)}",
        "usable": int(CHIPS[chip].memory * 2**30), "flops": step_flops(exp),
        "state": {name: bytes_a_chip(getattr(exp.abstract, name)) for name in STATE},
        "data": bytes_a_chip(arrays)}
    lowered = programs.lower(exp.abstract, arrays, steps)
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {**report, "fits": False, "refused": cli.first_sentence(error)}
    report["seconds"] = time.perf_counter() - started
    report["memory"] = memory_of(compiled)
    report["fits"] = sum(report["memory"].values()) <= report["usable"]
    text = compiled.as_text()
    report["collectives"] = {kind: (n / steps, size / steps)
                             for kind, (n, size) in hlo.collectives(text).items()}
    if step := step_of(text, compiled.cost_analysis(), steps, CHIPS[chip]):
        report["step"] = {**step, "examples": exp.source.examples_per_step}
    return report


def memory_of(compiled) -> dict:
    """Return the bytes that a compiled program needs of a chip, by kind."""
    memory = compiled.memory_analysis()
    return {"arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
            # Outputs that take the place of arguments: the donated state.
            "aliased": -memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes, "code": memory.generated_code_size_in_bytes}


def step_of(text: str, costs: dict, steps: int, chip) -> dict:
    """Return the compiler's estimate of one step, {} if a loop cannot be counted."""
    cycles = hlo.cycles(text) / steps
    if math.isnan(cycles):
        return {}
    step = {"cycles": round(cycles), "seconds": cycles / chip.clock}
    if text.count(" while(") <= (steps > 1):  # only that of the steps: bytes count once a loop
        step["intensity"] = costs["flops"] / costs["bytes accessed"]
        step["ridge"] = chip.peak / chip.bandwidth
    return step


def bytes_a_chip(tree) -> int:
    """Return the bytes that a chip holds of arrays, which need not exist, as they are split."""
    def size(leaf):
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(size, jax.tree.leaves(tree)))


def slice_devices(topology: str) -> list:
    """Return the devices of a slice that is not here: one can compile for them, nothing else."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU needs libtpu, found none; "
                        'pip install "karpjax[precompile]"')
    chip = topology.split(":")[0]
    expected = (f"--topology={topology}: expected CHIP:LAYOUT with CHIP one of {', '.join(CHIPS)}, "
                "as in v5e:4x4, v4:2x2x1")
    if chip not in CHIPS:
        raise UserError(expected)
    os.environ |= {name: os.environ.get(name, value) for name, value in ALONE.items()}
    # On v4 jax sees a chip's two cores as one device.
    options = {"chip_config_name": "megacore"} if chip == "v4" else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology,
                                            **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"{expected}; {cli.first_sentence(error)}") from error


def suggest(options, report: dict) -> None:
    """Compile the usual changes of the config, and print the first that fits."""
    held = sum(report["state"].values())
    if report["data"] > report["usable"]:
        print("             every chip would hold the data set; feed it from the hosts: "
              f"{as_flags(options.config, {'data.on_device': 'no'})}")
        return
    if held / report["chips"] > report["usable"]:
        print("             parameters and optimizer do not fit even split over the chips; "
              "use a larger slice, a smaller model")
        return
    for change in usual_changes(options.config, report, heavy=held > report["usable"] / 2):
        config = copy.deepcopy(options.config)
        with config.unlocked():
            config.update_from_flattened_dict(change)
        flags = as_flags(options.config, change)
        changed = precompile(config, options.task_file, options.topology)
        if changed["fits"]:
            needed = sum(changed["memory"].values()) / 2**20
            print(f"would fit    with {flags}: {needed:,.1f} MiB a chip")
            return
        print(f"             not with {flags}", flush=True)
    print("             nor with any of these; "
          "use a larger slice, a smaller batch or a smaller model")


def as_flags(config, change: dict) -> str:
    """Return a change of a config as flags, and for keys that its file lacks as lines to add."""
    known = cli.names_of(config)
    flags = [f"--config.{name}={value}" for name, value in change.items() if name in known]
    lines = [f"config.{name} = {value!r} in the config file" for name, value in change.items()
             if name not in known]  # as a flag the command line would refuse it
    return " and ".join([*([" ".join(flags)] if flags else []), *lines])


def usual_changes(config, report: dict, heavy: bool) -> list[dict]:
    """Return the changes of a config that save memory, {key: value}, the most promising first.

    heavy  parameters and optimizer are most of it, so that splitting them comes first
    """
    chips, batch = report["chips"], report["batch_size"]
    split = {"mesh.fsdp": chips} if config.parallel == "jit" and chips > 1 else {}
    remat = {"model.remat": True} if "remat" in report["model_fields"] else {}
    parts = [{"accumulate": k} for k in (2, 4, 8, 16)
             if k > config.accumulate and batch % (chips * k) == 0]
    singly = [split, remat, *parts] if heavy else [remat, *parts, split]
    together = {**split, **remat, **(parts[-1] if parts else {})}
    return [change for change in (*singly, together) if change]
