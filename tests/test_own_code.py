"""Slips in a user's own task: one sentence before step 1, which ends with the user's lines."""
from types import SimpleNamespace

from command import TINY, changed
from guarantees.harness import mesh_of
import jax
import numpy as np
import pytest

import karpjax as kj
from karpjax.core import errors
from karpjax.core.errors import NotFinite, UserError
from karpjax.core.task_file import module_from_text
from karpjax.run.experiment import check_sizes, summary_names
from karpjax.run.own_code import own_code

TEXT = changed(TINY, ("import jax.numpy as jnp", "import jax, jax.numpy as jnp"))
ANCHOR = "        correct = (logits"
RETURN = 'kj.Task(model, source, loss, inputs="x")'


def in_the_loss(line: str) -> tuple[str, str]:
    return (ANCHOR, f"        {line}\n{ANCHOR}")


def fit(folder, *changes, **values) -> dict:
    """Train the tiny task with changes of its text."""
    text = changed(TEXT, *changes)
    config = module_from_text("mine.py", text).get_config()
    config.update(values)
    return kj.fit(config, folder / "run", task_file={"path": "mine.py", "text": text},
                  mesh=mesh_of(1))


def refusal(folder, *changes, **values) -> str:
    """Return the line about a task that is refused before a workdir is begun."""
    with pytest.raises(UserError) as error:
        fit(folder, *changes, **values)
    assert not (folder / "run").exists() and "\n" not in str(error.value)
    return str(error.value)


ENTRIES = "epoch, index, label, record, row, weight, x"
NO_AXIS = ("leave the collective (lax.psum, lax.pmean, axis_name) out: a batch is global, and the "
           "step adds each (total, count) over the devices")
NO_KEY = ("evaluation calls the loss with key=None, without dropout or noise: draw only `if key is "
          "not None`, or give the Task an `evaluate` of its own")
TRAINING, EVALUATION = "the loss of a training batch raised ", "the evaluation of a batch raised "


@pytest.mark.parametrize("line, says", [
    ("nll = nll + logits", TRAINING + "ValueError: Incompatible shapes for broadcasting: "
     "shapes=[(8,), (8, 3)]"),
    ("if nll.mean() > 1: nll = 0", TRAINING + "TracerBoolConversionError: Attempted boolean "
     "conversion of traced array with shape bool[]."),
    ("nll = nll * batch['wieght']", TRAINING + f"KeyError: 'wieght'; the batch has {ENTRIES}"),
    ("nll = jax.lax.psum(nll, 'devices')", TRAINING + f"NameError: there is no axis 'devices'; "
     f"{NO_AXIS}"),
    ("nll = nll + jax.lax.axis_index('i')", TRAINING + f"NameError: there is no axis 'i'; "
     f"{NO_AXIS}"),
    ("nll = nll * batch['row']", EVALUATION + "KeyError: 'row'; the batch has index, label, "
     "weight, x"),
    ("nll += jax.random.uniform(key, nll.shape)", EVALUATION + "TypeError: unexpected PRNG key "
     f"type <class 'NoneType'>; {NO_KEY}"),
], ids=lambda text: text.split()[2] if text.startswith("nll") else "")
def test_a_slip_in_the_loss(tmp_path, line, says):
    """The sentence names the cause, and ends with the file, the line and its text."""
    number = TEXT[:TEXT.index(ANCHOR)].count("\n") + 1
    assert refusal(tmp_path, in_the_loss(line)) == f"{says}; mend mine.py:{number}, in loss: {line}"


@pytest.mark.parametrize("given, name", [("", "image"), (', inputs="y"', "y")])
def test_inputs_that_a_batch_lacks(tmp_path, given, name):
    """A forgotten `inputs` too: no line of the user's is in that traceback."""
    assert refusal(tmp_path, (RETURN, f"kj.Task(model, source, loss{given})")) == (
        f"Task.inputs = '{name}': expected an entry of a batch, found label, x; give "
        "karpjax.Task(..., inputs=NAME)")


@pytest.mark.parametrize("change, says", [
    ((RETURN, RETURN.replace('"x"', 'lambda batch: {"z": batch["x"]}')),
     "missing a required argument: 'x'; expected it to take (train=..., z=...): give"),
    (("self, x, train: bool = False", "self, x"),
     "got an unexpected keyword argument 'train'; expected it to take (inputs, train=...): give")])
def test_arguments_that_the_model_does_not_take(tmp_path, change, says):
    assert refusal(tmp_path, change).startswith(f"MLP.__call__: {says}")


def test_a_slip_in_a_micro_batch(tmp_path):
    """The loss is traced on what it will see: 4 rows of the batch's 8."""
    assert refusal(tmp_path, in_the_loss("nll = nll + jnp.ones(8)"), accumulate=2).startswith(
        TRAINING + "TypeError: add got incompatible shapes for broadcasting: (4,), (8,).; mend ")


@pytest.mark.parametrize("values", [{}, {"parallel": "pmap"}, {"debug_nans": True}],
                         ids=["jit", "pmap", "debug_nans"])
def test_a_loss_without_a_gradient(tmp_path, values):
    """It is found as the step is compiled, after the workdir is begun."""
    line = "nll = jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x + 1, nll)"
    try:
        with pytest.raises(UserError, match=r"^a training step raised ValueError: Reverse-mode .*; "
                                            r"mend mine.py:\d+, in loss: nll = jax.lax.while_loop"):
            fit(tmp_path, in_the_loss(line), **values)
    finally:
        jax.config.update("jax_debug_nans", False)


def test_the_lines_are_those_of_the_text_that_runs(tmp_path):
    """Another text of the same path, loaded between two runs of one, has other lines there."""
    line = "nll = jnp.ones(3) + nll"
    said = refusal(tmp_path, in_the_loss(line))
    module_from_text("mine.py", f"import math\n{TEXT}")
    assert refusal(tmp_path, in_the_loss(line)) == said and said.endswith(f"in loss: {line}")


def test_a_slip_below_the_loss(tmp_path):
    """The lines that led to it come first. A network's axis_name is a collective too."""
    text = refusal(tmp_path, ("use_running_average=not train", "use_running_average=not train, "
                                                               "axis_name='batch'"))
    start, _, lines = text.partition("; mend ")
    assert start == f"{TRAINING}NameError: there is no axis 'batch'; {NO_AXIS}"
    loss, network = lines.split(" -> ")
    assert "in loss: logits, model_state = kj.apply(" in loss
    assert network.endswith("axis_name='batch', name=\"norm\")(x)") and ", in __call__: " in network


@pytest.mark.parametrize("change, says", [
    (("MLP(**config.model)", "MLP(**config.modle)"), "build(config) raised AttributeError: "),
    (("        x = nn.BatchNorm", "        x = x @ x\n        x = nn.BatchNorm"),
     "the model on one example raised TypeError: dot_general requires contracting dimensions"),
    ((RETURN, RETURN[:-1] + ", evaluate=lambda variables, batch: batch['x'].mean())"),
     "evaluation returned a DynamicJaxprTracer; expected a dict of name -> metric"),
    ((RETURN, RETURN[:-1] + ", evaluate=lambda variables, batch: {'a': (batch['x'], 1.0)})"),
     "evaluation: the metric 'a' has shapes [(8, 6), ()]; expected karpjax.mean("),
], ids=["build", "model", "evaluate", "metric"])
def test_a_slip_elsewhere(tmp_path, change, says):
    assert refusal(tmp_path, change).startswith(says)


@pytest.mark.parametrize("text, says", [
    ("import nosuchthing\n", "--config=CONFIG raised ModuleNotFoundError: No module named "
     "'nosuchthing'; mend CONFIG:1, in <module>: import nosuchthing"),
    ("def get_config():\n    return kj.config()\n", "get_config raised NameError: name 'kj' is not "
     "defined; mend CONFIG:2, in get_config: return kj.config()")], ids=["import", "get_config"])
def test_a_slip_in_a_config_file(tmp_path, text, says):
    file = tmp_path / "slip.py"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        kj.load_config(file)
    assert str(error.value).replace(str(file), "CONFIG") == says


def test_a_best_that_is_no_metric(tmp_path):
    """The names of the metrics are known before step 1."""
    assert refusal(tmp_path, best="max validation/acuracy") == (
        "config.best = 'max validation/acuracy': the evaluation has no such metric; did you mean "
        "'validation/accuracy'?")


def test_a_best_that_summarize_does_not_make(tmp_path):
    """Its names are found on zeros."""
    def summarize(body):
        return (RETURN, f"{RETURN[:-1]}, summarize=lambda totals, rows: {body})")
    assert refusal(tmp_path, summarize("{'f1': 0.5, 'by_class': {'a': 1.0}}"),
                   best="max validation/f2") == (
        "config.best = 'max validation/f2': the evaluation has no such metric; did you mean "
        "'validation/f1'?")


def test_names_of_summarize_on_zeros():
    totals = {"n": kj.total(np.int32(0))}

    def names(summarize):
        return summary_names(SimpleNamespace(summarize=summarize), totals, {})
    assert names(lambda totals, rows: {"f1": 1 / totals["n"], "by_class": {"a": 1.0}}) == {"f1"}
    assert names(lambda totals, rows: {"f1": 1 / int(totals["n"])}) is None  # zeros do not do
    assert names(None) == set()
    assert names(lambda totals, rows: {f"f{min(totals['n'], 1)}": 1.0}) is None  # names of classes


def test_a_slip_in_summarize(tmp_path):
    """It runs on the host, after the first evaluation."""
    summarize = ", summarize=lambda totals, rows: {'a': totals['b']})"
    with pytest.raises(UserError, match=r"^Task.summarize raised KeyError: 'b'; mend mine.py:\d+, "
                                        "in <lambda>: return kj.Task"):
        fit(tmp_path, (RETURN, RETURN[:-1] + summarize), steps=2, eval_every=2)


def test_the_evaluation_is_traced_once(tmp_path):
    """The check at the start costs nothing: the first evaluation finds its trace."""
    calls = "CALLS.append(key)\n        "
    name = "counted.py"
    text = changed(TEXT, (ANCHOR, f"        {calls}{ANCHOR.strip()}"),
                   ("def build(config):", "CALLS = []\n\n\ndef build(config):"))
    module = module_from_text(name, text)
    kj.fit(module.get_config(), tmp_path, task_file={"path": name, "text": text}, mesh=mesh_of(1))
    assert module.CALLS.count(None) == 1


def test_an_error_of_karpjax_stays(monkeypatch):
    """Without a line of the user's there is nothing to show: a bug keeps its traceback."""
    monkeypatch.setattr(errors, "OTHERS", ("/", "<", "tests"))
    with pytest.raises(ZeroDivisionError), own_code("a step"):
        print(1 / 0)
    with pytest.raises(NotFinite, match="^a step raised FloatingPointError: nan; mend the loss: "
                                        "it is in the gradient of one of its operations$"), \
            own_code("a step"):
        raise FloatingPointError("nan")


# -------------------------------------------------------------- pictures smaller than the strides

def test_pictures_smaller_than_the_strides():
    """Refused by the first layer that leaves nothing: the loss would be NaN at step 1."""
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for i in range(3):
                x = nn.max_pool(nn.Conv(4, (3, 3), name=f"conv{i}")(x), (2, 2), (2, 2))
            return nn.Dense(2)(x.mean((1, 2)))

    def check(size):
        program = jax.make_jaxpr(lambda x: Net().init_with_output(jax.random.key(0), x))(
            np.zeros((2, size, size, 1), np.float32))
        check_sizes(program.jaxpr, "the model")
    check(8)
    with pytest.raises(UserError, match=r"^the model: expected pictures of which the network's "
                       r"strides leave something, found \(2, 1, 1, 4\) of which Net makes "
                       r"\(2, 0, 0, 4\); use larger pictures"):
        check(7)
