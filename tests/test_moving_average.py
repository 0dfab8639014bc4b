"""The moving average of a BatchNorm network is as good as the network on real data (digits)."""
from guarantees.harness import mesh_of
import jax
import pytest

from karpjax.run.config_file import load_config
from karpjax.run.experiment import assemble
from karpjax.run.programs import make_programs, placed_arrays


@pytest.mark.full
@pytest.mark.parametrize("decay, steps, least", [(0.99, 200, 0.97), (0.9999, 300, 0.97)])
def test_the_average_predicts_with_its_own_statistics(decay, steps, least):
    """Its validation accuracy is high. The mutant joins it with the live network's statistics."""
    config, task_file = load_config("digits_cnn")
    config.update({"ema_decay": decay, "dispatch": "step"})  # of 1,000 steps: rates are high
    exp = assemble(config, task_file, mesh=mesh_of(1))
    state, arrays, programs = exp.fresh_state(), placed_arrays(exp, 0), make_programs(exp)
    programs.compile(state, arrays, 1)
    for _ in range(steps):
        state, *_ = programs.run(state, arrays, 1)

    def accuracy(variables):
        return exp.evaluator.measure(variables, "validation").metrics["accuracy"]
    assert accuracy(exp.eval_variables(state)) >= least
    mutant = {"params": state.ema, **state.model_state}
    assert jax.tree.structure(mutant) == jax.tree.structure(state.eval_variables)
    assert accuracy(mutant) < least
