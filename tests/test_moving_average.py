"""The moving average of a BatchNorm network predicts from the first steps on (digits_cnn)."""
import dataclasses

from guarantees.harness import mesh_of
import jax
import pytest

from karpjax.run.config_file import load_config
from karpjax.run.experiment import assemble
from karpjax.run.programs import make_programs, placed_arrays


@jax.jit
def uncorrected(average, params, decay):
    """Return karpjax 0.1's average, in which the random weights of the start stay."""
    return jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, params)


@pytest.mark.full
@pytest.mark.parametrize("decay, steps, least", [(0.99, 200, 0.95), (0.9999, 300, 0.96)])
def test_accuracy_of_the_average(decay, steps, least):
    """Validation accuracy is 0.975 and 0.985, by the live network 0.975 and 0.990.

    The mutant averages parameters alone, uncorrected, and takes the live network's statistics. Its
    accuracy is 0.870 and 0.100.
    """
    config, task_file = load_config("digits_cnn")
    config.update({"ema_decay": decay, "dispatch": "step", "steps": steps})
    exp = assemble(config, task_file, mesh=mesh_of(1))
    state, arrays, programs = exp.fresh_state(), placed_arrays(exp, 0), make_programs(exp)
    programs.compile(state, arrays, 1)
    mutant = jax.tree.map(lambda x: x.copy(), state.params)  # the step donates its state
    for _ in range(steps):
        state, *_ = programs.run(state, arrays, 1)
        mutant = uncorrected(mutant, state.params, decay)

    def accuracy(variables):
        return exp.evaluator.measure(variables, "validation").metrics["accuracy"]
    assert accuracy(exp.eval_variables(state)) >= least
    assert accuracy({"params": mutant, **state.model_state}) < least - 0.04


def test_evaluation_takes_the_average():
    config, task_file = load_config("digits_cnn")
    config.ema_decay = 0.9
    exp = assemble(config, task_file, mesh=mesh_of(1))
    state = exp.fresh_state()
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 1, state.params))
    seen = exp.eval_variables(state)
    assert seen["params"] is state.ema is not state.params
    assert seen["batch_stats"] is state.ema_state["batch_stats"]
