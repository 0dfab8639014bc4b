"""G5: the jit and pmap builds agree for every loss without dropout or statistics across examples.

With them, pmap means per device, as everywhere. A loss over pairs of examples, which cannot agree,
is refused.
"""
from guarantees.harness import differences, mesh_of, on_eight, reference, run, uneven
from guarantees.over_pairs import pairs_config
from guarantees.registry import TASKS, config_of
import pytest

from karpjax.core.errors import UserError
from karpjax.run.experiment import assemble
from karpjax.run.whole_batch import check_parts

EXACT = [name for name, entry in TASKS.items() if entry.exact is not None]


@pytest.mark.parametrize("name", EXACT)
def test_pmap_equals_jit(name):
    """Eight devices by pmap equal one by jit, which G1 holds equal to eight by jit."""
    jit = reference(name, exact=True)
    pmap = run(*config_of(name, exact=True, parallel="pmap"), mesh_of(8), change=uneven)
    assert differences(pmap.metrics, jit.metrics) == []
    assert differences(pmap.state, jit.state) == []


@pytest.mark.full
def test_batch_statistics_are_per_device_under_pmap():
    """BatchNorm on 2 of 16 images is another network: the builds differ, as documented."""
    jit = on_eight("digits").metrics["loss"][:1]
    pmap = run(*config_of("digits", parallel="pmap"), mesh_of(8), steps=1, change=uneven).metrics
    assert differences({"loss": pmap["loss"]}, {"loss": jit}) != []


@pytest.mark.parametrize("name", ["masked_text"])
def test_mutant_gradients_not_summed(name, monkeypatch):
    """A pmap step that forgets its psum is caught."""
    from karpjax.core import step
    monkeypatch.setattr(step.lax, "psum", lambda tree, axis: tree)
    jit = reference(name, exact=True)
    pmap = run(*config_of(name, exact=True, parallel="pmap"), mesh_of(8), change=uneven)
    assert differences(pmap.state, jit.state) != []


def check(config, task_file, mesh) -> list[str]:
    exp = assemble(config, task_file, mesh)
    return check_parts(exp, exp.fresh_state())


def test_a_loss_over_pairs_is_refused():
    config, task_file = pairs_config("contrastive", "square", parallel="pmap")
    with pytest.raises(UserError) as error:
        check(config, task_file, mesh_of(4))
    assert "together contrastive 1.28" in str(error.value)
    assert "of each by itself contrastive 0.92" in str(error.value)
    assert "square" not in str(error.value)


@pytest.mark.full
def test_pairs_between_micro_batches_of_a_device():
    """Pairs of neighbours lie on one device, and in several micro-batches."""
    assert check(*pairs_config("consecutive", parallel="pmap"), mesh_of(4)) == []
    with pytest.raises(UserError, match="consecutive"):
        check(*pairs_config("consecutive", parallel="pmap", accumulate=2), mesh_of(2))


@pytest.mark.full
def test_mutant_batchnorm_and_dropout_are_not_refused():
    assert check(*config_of("digits", parallel="pmap"), mesh_of(4)) == []
