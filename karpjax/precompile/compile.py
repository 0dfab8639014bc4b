"""A config's train program compiled for a TPU slice: what it needs of a chip, and a change that would fit."""
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
from karpjax.run.chips import CHIPS
from karpjax.run.experiment import assemble
from karpjax.run.loop import steps_to_event
from karpjax.run.programs import Programs, step_flops

# libtpu looks for the TPU it stands beside, complains of finding none, and would let only one process at a time look.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
         "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def precompile(config, task_file, topology: str) -> dict:
    """What the compiler says of the config's train program on that slice. The default backend must be the CPU by now."""
    mesh = sharding.make_mesh(**config.mesh, devices=slice_devices(topology))
    exp = assemble(config, task_file, mesh)
    exp.config.dispatch = exp.config.dispatch or "scan"
    programs = Programs(exp)
    if programs.split:
        raise UserError("expected a step that is one program, found several with config.parallel = "
                        f"{exp.config.parallel!r}, dispatch = {exp.config.dispatch!r}; use parallel = 'jit', dispatch = 'scan'")
    place = sharding.batch_sharding(mesh) if exp.source.streamed else sharding.replicated(mesh)
    arrays = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
                          jax.eval_shape(lambda arrays: arrays, exp.source.arrays))
    steps = steps_to_event(exp.config, exp.source.steps_per_chunk, programs.longest, step=0)
    report = {"chips": mesh.size, "batch_size": exp.source.batch_size, "model_fields": [*vars(exp.task.model)],
              "program": f"{steps} steps of {exp.source.batch_size} on {mesh.size} x {mesh.devices.flat[0].device_kind}, "
                         f"{topology}, mesh {dict(mesh.shape)}",
              "usable": int(CHIPS[topology.split(":")[0]].memory * 2**30), "flops": step_flops(exp)}
    report["state"] = {name: bytes_a_chip(getattr(exp.abstract, name)) for name in ("params", "opt_state", "ema", "model_state",
                                                                                  "source")}
    report["data"] = bytes_a_chip(arrays)
    lowered, started = programs.lower(exp.abstract, arrays, steps), time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {**report, "fits": False, "refused": cli.first_sentence(error)}
    seconds, found = time.perf_counter() - started, compiled.memory_analysis()
    text, costs, chip = compiled.as_text(), compiled.cost_analysis(), CHIPS[topology.split(":")[0]]
    work = hlo.cycles(text) / steps
    if not math.isnan(work):
        report["step"] = {"cycles": round(work), "seconds": work / chip.clock, "examples": exp.source.examples_per_step}
        if text.count(" while(") <= (steps > 1):                        # the steps': bytes are counted once a loop
            report["step"] |= {"intensity": costs["flops"] / costs["bytes accessed"], "ridge": chip.peak / chip.bandwidth}
    memory = {"arguments": found.argument_size_in_bytes, "outputs": found.output_size_in_bytes,
              "aliased": -found.alias_size_in_bytes,  # outputs that take the place of arguments: the donated state
              "temporaries": found.temp_size_in_bytes, "code": found.generated_code_size_in_bytes}
    return {**report, "fits": sum(memory.values()) <= report["usable"], "memory": memory, "seconds": seconds,
            "collectives": {kind: (n / steps, size / steps) for kind, (n, size) in hlo.collectives(text).items()}}


def bytes_a_chip(tree) -> int:
    """Of arrays that need not exist, as they are split over the chips."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(size, jax.tree.leaves(tree)))


def slice_devices(topology: str) -> list:
    """The devices of a slice that is not here: they can be compiled for, and nothing else."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError('compiling for a TPU needs libtpu, found none; pip install "karpjax[precompile]"')
    chip = topology.split(":")[0]
    expected = f"--topology={topology}: expected CHIP:LAYOUT with CHIP one of {', '.join(CHIPS)}, as in v5e:4x4, v4:2x2x1"
    if chip not in CHIPS:
        raise UserError(expected)
    os.environ |= {name: os.environ.get(name, value) for name, value in ALONE.items()}
    options = {"chip_config_name": "megacore"} if chip == "v4" else {}  # there jax sees a chip's two cores as one device
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"{expected}; {cli.first_sentence(error)}") from error


def suggest(options, report: dict) -> None:
    """Print the first change of the config that the compiler finds to fit, of the usual ones; each was compiled."""
    if report["data"] > report["usable"]:
        print("             every chip would hold the data set; feed it from the hosts: --config.data.on_device=no")
        return
    chips, batch = report["chips"], report["batch_size"]
    if sum(report["state"].values()) / chips > report["usable"]:
        print("             parameters and optimizer do not fit even split over the chips; use a larger slice, a smaller model")
        return
    split = {"mesh.fsdp": chips} if options.config.parallel == "jit" and chips > 1 else {}
    anew = {"model.remat": True} if "remat" in report["model_fields"] else {}
    parts = [{"accumulate": k} for k in (2, 4, 8, 16) if k > options.config.accumulate and batch % (chips * k) == 0]
    heavy = sum(report["state"].values()) > report["usable"] / 2                # parameters and optimizer: nothing else helps
    singly = [split, anew, *parts] if heavy else [anew, *parts, split]
    together = {**split, **anew, **(parts[-1] if parts else {})}
    for change in [each for each in (*singly, together) if each]:
        config = copy.deepcopy(options.config)
        with config.unlocked():
            config.update_from_flattened_dict(change)
        flags = " ".join(f"--config.{name}={value}" for name, value in change.items())
        found = precompile(config, options.task_file, options.topology)
        if found["fits"]:
            needed = sum(found["memory"].values()) / 2**20
            print(f"would fit    with {flags}: {needed:,.1f} MiB a chip")
            return
        print(f"             not with {flags}", flush=True)
    print("             nor with any of these; use a larger slice, a smaller batch or a smaller model")
