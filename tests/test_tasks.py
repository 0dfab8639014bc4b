"""The toy tasks: their parts against hand-made references, and that they learn."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from guarantees.harness import mesh_of
from guarantees.registry import config_of
from karpjax.envs.cartpole import CartPole
from karpjax.envs.protocol import auto_reset
from karpjax.experiment import assemble
from karpjax.loop import train
from karpjax.tasks.classify import mean_of_views
from karpjax.tasks.reinforce import returns_to_go


def config_file(name):
    import importlib.util
    import pathlib
    path = pathlib.Path(__file__).parent.parent / "configs" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


# ------------------------------------------------------------------------------------------------------- learning

def test_reinforce_solves_cartpole(tmp_path):
    summary = train(config_file("reinforce_cartpole.py"), tmp_path, mesh=mesh_of(1))
    assert summary["eval/return"] >= 195


# ---------------------------------------------------------------------------------------------------------- parts

def test_returns_to_go_by_hand():
    """Two environments, discount 1/2: an episode of 2 steps then an unfinished one; one that ends at the last step."""
    reward = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    over = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    returns, known = returns_to_go(reward, over, 0.5)
    assert known.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (returns * known).tolist() == [[2.0, 2.0, 0.0], [3.0, 4.0, 4.0]]


def airbench(**overrides):
    config, record = config_of("airbench", **overrides)
    return assemble(config, record, mesh_of(1))


def test_airbench_starts_from_the_data():
    """Its first layer whitens: 2x2 patches of the training images come out uncorrelated and of one size."""
    x = airbench()
    rows = x.task.source.first(512)
    images = x.task.source.prepare(rows)["image"]
    variables = x.fresh_state().variables
    _, found = x.task.model.apply(variables, jnp.asarray(images), features=True)
    y = np.asarray(found["whiten"] - variables["params"]["whiten"]["bias"]).reshape(-1, 24)[:, :12]
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(12), atol=0.01)
    assert list(found) == ["whiten", "group0", "group1", "group2", "pooled"]
    kernel = np.asarray(variables["params"]["group1"]["conv0"]["kernel"])                     # (3, 3, 4, 8)
    assert (kernel[1, 1, :, :4] == np.eye(4)).all() and kernel[..., :4].sum() == 4 and (kernel[..., 4:] != 0).all()


def test_views_of_an_image():
    """Six views: for a network that is linear the weights are 1/4 (as it is), 1/4 mirrored, 1/8 each that is moved."""
    images = jax.random.normal(jax.random.key(0), (2, 4, 5, 1))
    predict = lambda images: images.reshape(2, -1)
    mirror = lambda x: x[:, :, ::-1]
    still, padded = (images + mirror(images)) / 2, jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    np.testing.assert_allclose(mean_of_views(predict, images, predict(images), "mirror"), predict(still), atol=1e-6)
    moved = sum(x + mirror(x) for x in (padded[:, :4, :5], padded[:, 2:, 2:])) / 8
    np.testing.assert_allclose(mean_of_views(predict, images, predict(images), "mirror_translate"),
                               predict(still / 2 + moved), atol=1e-6)


def test_evaluation_with_views(tmp_path):
    config, record = config_of("airbench", steps=3, eval_every=3)
    summary = train(config, tmp_path, record=record, mesh=mesh_of(1))
    assert {"test/accuracy", "test/accuracy_tta"} <= set(summary)
    config.tta = "mirrored"
    with pytest.raises(kj.UserError, match="config.tta"):
        assemble(config, record, mesh_of(1))


def gymnasium_cartpole_step(state, action):
    """Gymnasium's cartpole.py, written out in float64 (explicit Euler)."""
    x, v, theta, omega = state
    force, total, length = (10.0 if action == 1 else -10.0), 1.1, 0.05
    temp = (force + length * omega**2 * np.sin(theta)) / total
    alpha = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (0.5 * (4.0 / 3.0 - 0.1 * np.cos(theta) ** 2 / total))
    acc = temp - length * alpha * np.cos(theta) / total
    return np.array([x + 0.02 * v, v + 0.02 * acc, theta + 0.02 * omega, omega + 0.02 * alpha])


def test_cartpole_dynamics():
    env = CartPole()
    state, obs = env.reset(jax.random.key(3))
    reference, step = np.asarray(obs, np.float64), jax.jit(env.step)
    for t in range(30):
        state, out = step(state, jnp.int32(t // 3 % 2), jax.random.key(0))
        reference = gymnasium_cartpole_step(reference, t // 3 % 2)
        np.testing.assert_allclose(out.obs, reference, rtol=1e-4, atol=1e-5)


def test_cartpole_ends():
    """Always pushing right: terminated, not truncated; with 3 steps allowed: truncated, not terminated."""
    for max_steps, terminated in ((500, True), (3, False)):
        env = CartPole(max_steps)
        state, _ = env.reset(jax.random.key(0))
        for t in range(max_steps):
            state, out = env.step(state, jnp.int32(1), jax.random.key(0))
            if out.terminated | out.truncated:
                break
        assert (bool(out.terminated), bool(out.truncated)) == (terminated, not terminated)
        assert terminated or t == 2


def test_auto_reset_keeps_the_final_observation():
    env = CartPole(max_steps=1)
    state, _ = env.reset(jax.random.key(0))
    state, out = auto_reset(env, state, jnp.int32(1), jax.random.key(1))
    assert state["time"] == 0 and (state["obs"] == out.obs).all() and not (out.obs == out.final_obs).all()


def test_policy_gradient_theorem():
    """The score-function gradient of a 2-armed bandit, averaged over 20,000 draws, is the gradient of the expected reward."""
    reward, theta = jnp.array([1.0, 3.0]), jnp.array([0.2, -0.1])
    exact = jax.grad(lambda t: jax.nn.softmax(t) @ reward)(theta)
    action = jax.random.categorical(jax.random.key(0), theta, shape=(20_000,))
    score = jax.grad(lambda t: jnp.mean(jax.nn.log_softmax(t)[action] * (reward[action] - 2.0)))(theta)
    np.testing.assert_allclose(score, exact, atol=0.02)
