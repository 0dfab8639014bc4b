"""Searches of games, and the network of a board that the Gumbel search asks."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nim import Nim
from rl_helpers import NEEDS_PGX

import karpjax as kj
from karpjax.envs.spaces import Discrete
from karpjax.games import uct
from karpjax.games.search import search

pytestmark = NEEDS_PGX


@pytest.mark.full
def test_board_network():
    model = kj.models.make_model(dict(name="board", width=8, blocks=1), actions=Discrete(7),
                                 obs_shape=(6, 7, 2))
    obs = {"obs": jnp.ones((2, 3, 6, 7, 2)),
           "legal": jnp.ones((2, 3, 7), bool).at[0, 0, 3].set(False)}
    params = model.init(jax.random.key(0), obs)["params"]
    outputs, values = model.apply({"params": params}, obs)
    assert outputs.shape == (2, 3, 7) and values.shape == (2, 3) and jnp.abs(values).max() <= 1
    assert jax.nn.softmax(outputs)[0, 0, 3] == 0
    one, value = model.apply({"params": params}, jax.tree.map(lambda x: x[1, 2], obs))
    np.testing.assert_allclose(one, outputs[1, 2], rtol=1e-5, atol=1e-6)
    text = jax.jit(model.apply).lower({"params": params}, obs).compile().as_text()
    # In a loop a convolution would be slow on the CPU.
    assert " dot(" in text and " convolution(" not in text


def after(env, actions):
    state, obs = env.reset(jax.random.key(0))
    for action in actions:
        state, out = env.step(state, jnp.int32(action), None)
        obs = out.obs
    return state, obs


@pytest.mark.parametrize("what", ["wins", pytest.param("blocks", marks=pytest.mark.full)])
def test_searches_see_one_move_ahead(what):
    """Both searches see a win and a threat of connect four, though the network knows nothing."""
    env = kj.envs.make_env("pgx:connect_four")
    actions, best = {"wins": ([0, 6, 0, 6, 0, 6], 0), "blocks": ([0, 6, 0, 5, 0], 0)}[what]
    state, obs = after(env, actions)
    keys = jax.random.split(jax.random.key(0), 8)
    plain = uct.uct(env, 400)
    assert set(jax.jit(jax.vmap(lambda key: plain(state, obs, key)))(keys).tolist()) == {best}

    def blank(obs):
        return jnp.where(obs["legal"], 0.0, -1e9), jnp.zeros(obs["legal"].shape[:-1])
    tree = jax.jit(jax.vmap(lambda key: search(env, blank, 64, state, obs, key)))(keys)
    np.testing.assert_allclose(tree["weights"].sum(-1), 1, rtol=1e-5)
    assert (tree["weights"].argmax(-1) == best).mean() >= 0.75
    if what == "wins":
        assert (tree["value"] > 0).all()


def test_uct_counts_its_playouts():
    env = Nim()
    state, obs = env.reset(jax.random.key(0))
    visits = uct.tried(env, 60, 1.4, state, obs, jax.random.key(0))
    assert visits.sum() == 60 and visits[0] > visits[1]
    last = {"left": jnp.int32(1), "player": jnp.int32(0)}
    assert uct.tried(env, 9, 1.4, last, env.observe(last),
                     jax.random.key(0)).tolist() == [9, 0]        # one legal move
