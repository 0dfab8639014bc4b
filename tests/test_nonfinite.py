"""Steps that were not finite: the message says which value, where, and what can be the cause."""
import re

from command import TINY, changed
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.core.errors import NotFinite
from karpjax.core.task_file import module_from_text
from karpjax.run.experiment import assemble
from karpjax.run.nonfinite import check_finite, first_not_finite
from karpjax.run.programs import placed_arrays

ANCHOR = "        correct = (logits"
DATA = "mend the data, or its preprocessing (config.data.mean, std): no learning rate is to blame"
NO_STEP = "no step has changed the weights yet, so no learning rate is to blame: "
DERIVATIVE = "the loss itself is finite, so an operation has no finite derivative there "
RATE = "try a lower learning rate or config.optimizer.clip, or find the operation with "


def experiment(*lines: str, mesh=None, **values):
    """Return the tiny task with these lines in its loss, and its state and first batch."""
    text = changed(TINY, (ANCHOR, "".join(f"        {line}\n" for line in lines) + ANCHOR))
    config = module_from_text("nonfinite.py", text).get_config()
    config.update(values)
    exp = assemble(config, {"path": "nonfinite.py", "text": text}, mesh or mesh_of(1))
    state = exp.fresh_state()
    _, chunk = exp.source.advance({}, state.source, {})
    return exp, state, dict(exp.source.batch(placed_arrays(exp, 0), chunk, 0))


def message(folder, exp, state, bad, loss=np.nan, grad_norm=np.nan, step=1, skipped=1) -> str:
    """Return the error of one bad step, split at its folder."""
    values = {"loss": [loss], "grad_norm": [grad_norm], "skipped": [skipped],
              "skipped_in_a_row": [1]}
    with pytest.raises(NotFinite) as error:
        check_finite(exp, state, step - 1, {n: np.array(x) for n, x in values.items()}, bad, folder)
    assert [file.name for file in (folder / "nonfinite").iterdir()] == [f"step_{step}.npz"]
    start, end = str(error.value).split(f"; these steps were skipped, their last batch is in "
                                        f"{folder / 'nonfinite'}; ")
    what = re.fullmatch(rf"step {step}: (.*), 1 time\(s\) in a row", start)[1]
    return f"{what} | {end}"


def test_nan_in_the_data(tmp_path):
    """The batch's entry, its index and the row of the data: whatever the step has made of it."""
    exp, state, bad = experiment()
    row = int(bad["row"][3])
    bad["x"] = bad["x"].at[3, 1].set(-np.inf)
    place = f"x is -inf at (3, 1) in the batch (row {row} of the training data)"
    assert message(tmp_path, exp, state, bad, step=9) == \
        f"the loss was not finite: {place} | {DATA}"
    assert message(tmp_path, exp, state, bad, loss=1.0, grad_norm=2.0, step=9) == \
        f"the model state was not finite: {place} | {DATA}"


def test_padding_may_be_anything(tmp_path):
    """NaN in a row of weight 0 is no cause."""
    arrays = {"x": jnp.ones((3, 2)).at[1, 0].set(jnp.nan), "y": jnp.ones((3, 2, 2))}
    assert first_not_finite(arrays).words == "x is nan at (1, 0)"
    assert first_not_finite(arrays, jnp.array([1.0, 0.0, 1.0])) is None
    arrays["y"] = arrays["y"].at[2, 1, 0].set(jnp.inf)
    assert first_not_finite(arrays, jnp.array([1.0, 0.0, 1.0])).words == "y is inf at (2, 1, 0)"
    number = first_not_finite({"count": jnp.int32(3), "loss": jnp.float32(jnp.nan)})
    assert (number.words, number.index) == ("loss is nan", ())


def test_a_loss_without_a_logarithm(tmp_path):
    """At weights that no step has changed, no learning rate is named. Later it may be."""
    exp, state, bad = experiment("nll = nll + jnp.log(-1 - 0 * nll)", accumulate=2)
    what = "the loss was not finite; computed again, the loss nll is nan | "
    assert message(tmp_path, exp, state, bad).startswith(what + NO_STEP)
    assert message(tmp_path / "later", exp, state, bad, step=5).startswith(what + RATE)


def test_a_gradient_without_a_value(tmp_path):
    """The loss is finite: an operation has no derivative, at any learning rate."""
    exp, state, bad = experiment("nll = nll + jnp.sqrt(nll - nll)", mesh=mesh_of(2))
    assert message(tmp_path, exp, state, bad, loss=1.0, step=5).startswith(
        f"the gradient was not finite; computed again, the gradient of head/bias is nan at (0,) | "
        f"{DERIVATIVE}")


def test_a_gradient_that_grows(tmp_path):
    """A norm that overflows is not one without a value: the rate can be the cause."""
    exp, state, bad = experiment()
    assert message(tmp_path, exp, state, bad, loss=1.0, grad_norm=np.inf, step=5).startswith(
        f"the gradient was not finite; computed again, all is finite | {RATE}")


def test_statistics_that_overflow(tmp_path):
    """Activations of 1e30 have no variance in float32. Their loss is finite."""
    exp, state, bad = experiment()
    kernel = state.params["hidden0"]["kernel"] * 1e30
    state = state.replace(params={**state.params, "hidden0": {
        **state.params["hidden0"], "kernel": kernel}})
    assert message(tmp_path, exp, state, bad, loss=1.0, grad_norm=1.0, step=5).startswith(
        "the model state was not finite; computed again, ")


def test_a_parameter_that_came_so(tmp_path):
    """As config.init_from may bring it."""
    exp, state, bad = experiment()
    state = jax.tree.map(lambda x: x, state)
    state.params["head"]["bias"] = state.params["head"]["bias"].at[2].set(jnp.nan)
    assert message(tmp_path, exp, state, bad).startswith(
        f"the loss was not finite; computed again, the parameter head/bias is nan at (2,) | "
        f"{NO_STEP}")
