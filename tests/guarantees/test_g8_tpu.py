"""G8: every config in configs/ compiles for a TPU slice and fits its memory, by the TPU's own
compiler, without a TPU.

Compilation runs in other processes: libtpu stays out of this one, and the CPU's test flags out of
the TPU's programs. The configs are compiled with the fewest optimisations, which saves most of
the time. This check is lighter: precompile tells a user of the full ones. KARPJAX_TEST_TPU_FULL=1
compiles them so here.
"""
import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys

from command import python_path
from guarantees.harness import ROOT
import jax
import jax.numpy as jnp
import pytest

import karpjax as kj
from karpjax.run import cli

TOPOLOGY = "--topology=v5e:2x2"
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
# Flags that a config needs. Of large models two layers are compiled, for four chips.
# experiments/pods compiles all of them.
LARGE = ["", "--config.data.name=imdb_packed", "--config.data.train=train+unsup",
         "--config.data.validation=", "--config.model.layers=2"]
GAMES, PICTURES = "--config.data.file={data}/games.npz", "--config.data.dir={data}/pictures"
FLAGS = {"connect_four_supervised.py": ["", GAMES], "connect_four_value.py": ["", GAMES],
         "detect_coco_pod.py": ["", "--config.data.batch_size=16"],
         "finetune_imagefolder.py": [":resnet50", PICTURES], "flow_folder.py": ["", PICTURES],
         "flow_imagenet64_pod.py": ["", "--config.data.name=cifar10", "--config.data.batch_size=8"],
         "gpt_124m_pod.py": [*LARGE, "--config.data.batch_size=32"],
         "image_folder.py": ["", PICTURES],
         "labelled_texts.py": ["", "--config.data.name=imdb"],
         "mlm_1b_v5e256.py": [*LARGE, "--config.data.batch_size=16", "--config.mesh.fsdp=4"]}
MICRO_BATCHES = ["--config=digits_cnn", "--config.dispatch=step", "--config.accumulate=4"]
MICRO = ("micro-batches", "rows cross chips", "unrolled")  # the second and third are mutants
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                                  reason="libtpu is not installed")

COMPILE = """
import json, os, sys, traceback
import jax
from karpjax.core import step
from karpjax.precompile.compile import precompile
from karpjax.run import cli
if not os.environ.get("KARPJAX_TEST_TPU_FULL"):
    jax.config.update("jax_optimization_level", "O0")
right = step.strided, step.scan
# The first quarter of the rows, not every fourth: other chips hold them.
def rows(x, j, k):
    return step.lax.dynamic_index_in_dim(x.reshape(k, -1, *x.shape[1:]), j, keepdims=False)
def unrolled(body, carry, length, unroll):
    return right[1](body, carry, length, unroll=True)
mutants = {"rows cross chips": (rows, right[1]), "unrolled": (right[0], unrolled)}
for name, *flags in map(json.loads, sys.argv[1:]):
    step.strided, step.scan = mutants.get(name, right)
    try:
        options = cli.parse(flags, "", config=True, topology=str)
        report = precompile(options.config, options.task_file, options.topology)
        print(json.dumps(report), flush=True)
    except Exception:
        print(json.dumps({"fits": False, "error": traceback.format_exc()}), flush=True)
"""
TOO_MUCH_DATA = """
import karpjax as kj, numpy as np, optax

def get_config():
    return kj.config(data=dict(batch_size=64, on_device="yes"), model=dict(name="cnn"))

def build(config):
    n = 2**28                                                            # of 64 bytes: 16 GiB
    images = np.broadcast_to(np.zeros((8, 8, 1), np.uint8), (n, 8, 8, 1))
    source = kj.sources.arrays({"image": images, "label": np.broadcast_to(np.uint8(0), n)},
                               batch_size=config.data.batch_size)
    model = kj.models.make_model(config.model, classes=2)
    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"] / 255.0, key)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"nll": kj.mean(nll)}, {}, model_state
    return kj.Task(model, source, loss)
"""
TOO_WIDE = """
from flax import linen as nn
import jax, jax.numpy as jnp, karpjax as kj, numpy as np

class Wide(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(1)(jnp.tanh(nn.Dense(2**18)(x)))                 # (B, 2**18): 16 GiB a chip

def get_config():
    return kj.config(data=dict(batch_size=2**16), dispatch="step")

def build(config):
    source = kj.sources.arrays({"x": np.zeros((2**16, 4), np.float32)},
                               batch_size=config.data.batch_size)
    model = Wide()
    def loss(params, model_state, batch, key):
        y, model_state = kj.apply(model, params, model_state, batch["x"], key)
        return {"square": kj.mean(y[:, 0] ** 2)}, {}, model_state
    return kj.Task(model, source, loss, inputs="x")
"""
UNTIL = """
def until(x):
    small = jax.lax.while_loop(lambda y: jnp.abs(y).max() > 1, lambda y: y / 2,
                               jax.lax.stop_gradient(x))
    return x + small

"""


def python(*arguments):
    own = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    env = {**{name: value for name, value in os.environ.items() if name not in own},
           "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True,
                          text=True, timeout=3600)


def command(*flags):
    return python("-m", "karpjax.precompile", TOPOLOGY, *flags)


def missing(config: str) -> str:
    """Return the package that the config needs and that is not installed, "" for none."""
    text = (ROOT / "configs" / config).read_text()
    return next((name for name in ("gymnax", "brax") if f"{name}:" in text
                 and not importlib.util.find_spec(name)), "")


def asked_for(request) -> set:
    """Return the configs of this run's tests, and the micro-batches with what they are compared to.
    """
    items = request.session.items
    micro = ("digits_cnn.py", *MICRO) if any("micro_batches" in item.name for item in items) else ()
    return {*micro, *(item.callspec.params.get("name") for item in items
                      if hasattr(item, "callspec"))}


@pytest.fixture(scope="module")
def compiled(request):
    """Return {config's file: report}, with micro-batches and their mutants, from one process for
    all."""
    def flags_of(name):
        return [flag.format(data=os.environ["TFDS_DATA_DIR"])
                for flag in FLAGS.get(name, [""])]
    jobs = {name: [f"--config=configs/{name}{flags_of(name)[0]}", *flags_of(name)[1:]]
            for name in CONFIGS if not missing(name)}
    jobs |= {name: MICRO_BATCHES for name in MICRO}
    jobs = {name: flags for name, flags in jobs.items() if name in asked_for(request)}
    done = python("-c", COMPILE,
                  *[json.dumps([name, TOPOLOGY, *flags]) for name, flags in jobs.items()])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(jobs), done.stderr[-3000:]
    return dict(zip(jobs, lines, strict=True))


@needs_libtpu
@pytest.mark.parametrize("name", CONFIGS)
def test_config_fits_a_tpu_slice(compiled, name):
    if missing(name):
        pytest.skip(f"{missing(name)} is not installed")
    report = compiled[name]
    assert report["fits"], report.get("error") or report
    assert report["flops"] > 0
    # the batch is split over the chips, the gradients are summed
    assert "all-reduce" in report["collectives"]


def micro_batches_are_right(micro: dict, whole: dict) -> bool:
    """Return whether only sums cross chips, and the loop over micro-batches is one (this machine's
    own backend unrolls it)."""
    assert micro["fits"], micro.get("error") or micro
    return set(micro["collectives"]) == {"all-reduce"} \
        and micro["memory"]["code"] < 1.2 * whole["memory"]["code"]


@pytest.mark.full
@needs_libtpu
def test_micro_batches(compiled):
    micro, whole = compiled["micro-batches"], compiled["digits_cnn.py"]
    assert micro_batches_are_right(micro, whole)
    assert micro["flops"] == whole["flops"]


@pytest.mark.full
@needs_libtpu
@pytest.mark.parametrize("mutant", MICRO[1:])
def test_mutant_micro_batches(compiled, mutant):
    assert not micro_batches_are_right(compiled[mutant], compiled["digits_cnn.py"])


@needs_libtpu
def test_mutant_model_too_large():
    """The compiler refuses the model and reports by how much."""
    done = command("--config=configs/digits_cnn.py", "--config.model.width=8192")
    assert done.returncode == 1, done.stderr
    assert "\ndoes not fit RESOURCE_EXHAUSTED" in done.stdout and "15.75G" in done.stdout


@pytest.mark.full
@needs_libtpu
def test_mutant_data_too_large(tmp_path):
    """The network is small, but every chip would have to hold the data set."""
    config = tmp_path / "too_much_data.py"
    config.write_text(TOO_MUCH_DATA)
    done = command(f"--config={config}")
    assert done.returncode == 1, done.stderr
    assert "\ndoes not fit" in done.stdout and "--config.data.on_device=no" in done.stdout


def test_a_billion_parameters():
    config = cli.parse(["--config=configs/mlm_1b_v5e256.py"], "", config=True).config
    model = kj.models.make_model(config.model, vocabulary=32_768)
    shapes = jax.eval_shape(model.init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, 512), jnp.int32))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 1_075_136_512


@pytest.mark.full
@needs_libtpu
def test_what_does_not_fit_is_told_what_would(tmp_path):
    """The flag that the command suggests makes the program fit."""
    config = tmp_path / "too_wide.py"
    config.write_text(TOO_WIDE)
    done = command(f"--config={config}")
    assert done.returncode == 1, done.stderr
    flag = re.search(r"^would fit    with (--config.accumulate=\d+): [\d,.]+ MiB a chip$",
                     done.stdout, re.M)
    assert flag, done.stdout
    done = command(f"--config={config}", flag[1])
    assert done.returncode == 0 and "\nfits" in done.stdout, done.stdout


@needs_libtpu
def test_batch_that_chips_do_not_divide():
    done = command("--config=configs/digits_cnn.py", "--config.data.batch_size=30")
    assert done.returncode == 2
    assert "batch size must be a multiple of devices x accumulate = 4 x 1, found 30; " \
           "use 28 or 32" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_libtpu():
    done = python("-c", f"import sys; sys.modules['libtpu'] = None\nimport runpy\nsys.argv[1:] = "
                        f"['{TOPOLOGY}', '--config=configs/digits_cnn.py']\n"
                        "runpy.run_module('karpjax.precompile', run_name='__main__')")
    assert done.returncode == 2
    assert 'pip install "karpjax[precompile]"' in done.stderr and "Traceback" not in done.stderr


@pytest.mark.full
@needs_libtpu
def test_command_says_where_the_memory_goes_and_what_a_step_takes():
    """fsdp splits the state over chips, and a chip's own step is well below a second."""
    said = {}
    for fsdp in (1, 4):
        done = command("--config=configs/poly.py", f"--config.mesh.fsdp={fsdp}",
                       "--config.model.width=64")
        assert done.returncode == 0, done.stderr
        said[fsdp] = {line[:13].strip(): line[13:] for line in done.stdout.splitlines()}
    params = {fsdp: float(lines["a chip holds"].split()[1]) for fsdp, lines in said.items()}
    assert params[4] < 0.5 * params[1]
    assert 0 < float(said[1]["one step"].split()[0]) < 1000
    assert "what collectives take is not in it" in said[1]["one step"]


@pytest.mark.full
@needs_libtpu
def test_a_step_with_loops_is_estimated_where_their_turns_are_known(tmp_path):
    """The digits' random crops are a loop over pictures.

    How often the other network halves depends on its input.
    """
    done = command("--config=configs/digits_cnn.py")
    assert done.returncode == 0 and re.search(r"^one step     [\d.]+ ms", done.stdout,
                                              re.M), done.stdout + done.stderr
    config = tmp_path / "until.py"
    config.write_text(TOO_WIDE.replace("2**18", "8").replace(
        "jnp.tanh(", "until(").replace("class Wide", UNTIL + "class Wide"))
    done = command(f"--config={config}")
    assert done.returncode == 0 \
        and "\none step     not estimated: there is a loop" in done.stdout, done.stdout \
        + done.stderr


def table(*flags) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    done = python("-m", "karpjax.slices", *flags)
    return done, [line.split() for line in done.stdout.splitlines() if line.startswith("v5e")]


@pytest.mark.full
@needs_libtpu
def test_a_table_of_slices_and_batches(tmp_path):
    done, rows = table("--config=configs/poly.py", "--topologies=v5e:2x2", "--batches=64,128",
                       f"--plot={tmp_path / 'slices.png'}")
    assert done.returncode == 0, done.stderr
    assert [row[:4] for row in rows] == [["v5e:2x2", "4", "64", "16"],
                                         ["v5e:2x2", "4", "128", "32"]]
    assert all("ms" in row for row in rows)
    assert (tmp_path / "slices.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.full
@needs_libtpu
def test_the_largest_batch(tmp_path):
    """A batch that does not fit is halved until one does.

    One that fits is doubled until one does not.
    """
    config, largest = tmp_path / "too_wide.py", {}
    config.write_text(TOO_WIDE)
    for batch in (2**16, 2**13):
        done, rows = table(f"--config={config}", "--topologies=v5e:2x2",
                           f"--config.data.batch_size={batch}")
        assert done.returncode == 0, done.stderr
        fits = {int(row[2]): "yes" in row for row in rows}
        assert len(fits) > 1 and list(fits)[0] == batch
        assert list(fits.values()).count(fits[batch]) == len(fits) - 1
        largest[batch] = max(size for size in fits if fits[size])
    assert largest[2**16] == largest[2**13]


def test_bad_list_of_batches():
    done, _ = table("--config=configs/digits_cnn.py", "--topologies=v5e:2x2", "--batches=64,many")
    assert done.returncode == 2 and "--batches=64,many: expected numbers" in done.stderr


@pytest.mark.full
@needs_libtpu
def test_cycles_of_a_loop_are_those_of_its_turns():
    """A loop costs ten times one of a tenth of its turns, and no less than written out.

    experiments/pods measured this, and the command's words rest on it.
    """
    done = python("experiments/pods/calibrate.py", "--quick", "--log=/dev/null")
    assert done.returncode == 0, done.stderr
    rows = [ast.literal_eval(line) for line in done.stdout.splitlines()
            if line.startswith("{'topology'")]
    product, ten, hundred, written_out, *collectives = [row["cycles"] for row in rows]
    assert product > 0 and set(collectives) == {0}
    # a loop has copies of its own
    assert hundred / ten == pytest.approx(10, rel=0.05) and 0.95 < ten / written_out < 3
