"""Advantages and running statistics: tables by hand, and rlax's numbers."""
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import begun

from karpjax.rl import advantages, running_stats

RLAX = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "rlax.npz")


def test_gae_by_hand():
    """Discount and lambda are 1/2. Environment 0 is terminated at its second step.

    Nothing comes after. Environment 1 is truncated there: the value of the state that it reached
    counts, the rewards of the next episode do not.
    """
    reward = jnp.array([[1.0, 2.0, 4.0]] * 2)
    value, next_value = jnp.array([[1.0, 1.0, 1.0]] * 2), jnp.array([[1.0, 8.0, 2.0]] * 2)
    terminated = jnp.array([[False, True, False], [False, False, False]])
    truncated = jnp.array([[False, False, False], [False, True, False]])
    # delta: 1 + 1/2 - 1 = 0.5, then 2 (+ 8/2 only if truncated) - 1 = 1 or 5, then 4 + 2/2 - 1 = 4
    gae = advantages.gae(reward, value, next_value, terminated, truncated, 0.5, 0.5)
    assert gae.tolist() == [[0.5 + 1 / 4, 1.0, 4.0], [0.5 + 5 / 4, 5.0, 4.0]]


def test_returns_to_go_by_hand():
    """Two environments, discount 1/2. One ends after 2 steps and begins again, one at step 3."""
    reward = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    over = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    returns, known = advantages.returns_to_go(reward, over, 0.5)
    assert known.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (returns * known).tolist() == [[2.0, 2.0, 0.0], [3.0, 4.0, 4.0]]


def test_normalized_leaves_out_what_has_no_weight():
    x, weight = jnp.array([[1.0, 3.0, 1e6]]), jnp.array([[1.0, 1.0, 0.0]])
    np.testing.assert_allclose(advantages.normalized(x, weight)[0, :2], [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(advantages.normalized(x, weight / 8)[0, :2], [-1, 1], rtol=1e-6)
    assert jnp.isfinite(advantages.normalized(x, 0 * weight)).all()
    np.testing.assert_allclose(jnp.std(advantages.normalized(jnp.arange(12.0).reshape(3, 4))), 1,
                               rtol=1e-6)


def test_gae_is_rlax_s():
    never = jnp.zeros(RLAX["reward"].shape, bool)
    gae = advantages.gae(RLAX["reward"], RLAX["value"][:, :-1], RLAX["value"][:, 1:],
                           jnp.asarray(RLAX["terminated"]), never,
                           float(RLAX["discount"]), float(RLAX["trace"]))
    np.testing.assert_allclose(gae, RLAX["rlax/gae"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", [pytest.param("a2c", marks=pytest.mark.full), "ppo"])
def test_advantages_are_normalised_or_what_they_are(task):
    """Advantages are normalised over the whole rollout, or are the errors of the values."""
    def batch_of(normalize):
        exp, _, _, chunk = begun(task, normalize_advantages=normalize)
        return exp.source.batch({}, chunk, 0)
    normalised, raw = batch_of(True), batch_of(False)
    plain = raw["advantage"]
    np.testing.assert_allclose(plain, raw["target"] - raw["value"], atol=1e-5)
    assert abs(plain.mean()) > 0.1 and abs(plain.std() - 1) > 0.1
    np.testing.assert_allclose(normalised["advantage"], (plain - plain.mean()) / plain.std(),
                               rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------- running statistics

def test_moments_are_those_of_all_that_was_seen():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 5, size=(6, 8, 7, 2)).astype(np.float32)  # 6 rollouts of 8 x 7
    stats = running_stats.init((2,))
    for rollout in x:
        stats = running_stats.update(stats, jnp.asarray(rollout))
    assert stats["count"] == 6 * 8 * 7
    np.testing.assert_allclose(stats["mean"], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], x.var((0, 1, 2)), rtol=1e-5)


def test_one_bad_reward_does_not_stay():
    good = running_stats.update(running_stats.init((2,)), jnp.arange(24.0).reshape(3, 4, 2))
    for bad in (jnp.nan, jnp.inf):
        after = running_stats.update(good, jnp.ones((3, 4, 2)).at[1, 2, 0].set(bad))
        same = jax.tree.map(jnp.array_equal, after, good)
        assert same == {"count": True, "mean": True, "var": True}


def test_rewards_are_scaled_observations_normalized_returns_are_not():
    options = dict(env=dict(name="pendulum", max_steps=20),
                   data=dict(num_steps=40, normalize=("obs", "reward")))
    exp, state, after, chunk = begun("ppo", **options)
    # The first rollout sees raw observations, the second normalises by the first one's moments.
    np.testing.assert_allclose(after["moments"]["obs"]["mean"], chunk["rows"]["obs"].mean((0, 1)),
                               atol=1e-5)
    again, second = jax.jit(exp.source.advance)({}, after, state.variables)
    assert np.abs(second["rows"]["obs"].mean((0, 1))).max() < 0.3
    np.testing.assert_allclose(second["rows"]["obs"].std((0, 1)), 1, atol=0.4)
    # An episode of 20 steps at rewards down to -16: returns are reported as they are.
    assert after["recent"]["known"].sum() == 16 * 2 and after["recent"]["return"].min() < -20
    assert set(after["recent"]["length"][:, :2].flatten().tolist()) == {20.0}
    assert again["moments"]["obs"]["count"] == 2 * 16 * 40
