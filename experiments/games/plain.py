"""Self-play with search as one would write it with pgx and mctx alone, for comparison: one jitted
scan, flax's own convolutions.

The shape is that of Pgx's example (sotetsuk/pgx, examples/alphazero/train.py): the network's logits
and value, mctx's Gumbel search over a batch, automatic resets. Every line is newly written, and the
network is karpjax's.
"""
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import mctx
import pgx
from pgx.experimental import auto_reset


class Net(nn.Module):
    moves: int
    width: int
    blocks: int

    @nn.compact
    def __call__(self, x):
        def conv(width, size):
            return nn.Conv(width, (size, size))

        x = nn.relu(conv(self.width, 3)(x.astype(jnp.float32)))
        for _ in range(self.blocks):
            x = nn.relu(x + conv(self.width, 3)(nn.relu(conv(self.width, 3)(x))))

        def planes():
            return nn.relu(conv(max(self.width // 4, 1), 1)(x)).reshape(len(x), -1)

        value = nn.Dense(1)(nn.relu(nn.Dense(2 * self.width)(planes())))
        return nn.Dense(self.moves)(planes()), jnp.tanh(value)[:, 0]


def make(name: str, games: int, length: int, simulations: int, width: int, blocks: int):
    """Return (start, play): play(carry) -> (carry, trajectory) of `length` moves in each of `games`
    games."""
    env = pgx.make(name)
    net = Net(env.num_actions, width, blocks)

    def see(params, state):
        logits, value = net.apply(params, state.observation)
        return jnp.where(state.legal_action_mask, logits, jnp.finfo(logits.dtype).min), value

    def recurrent(params, key, action, state):
        mover = state.current_player
        state = jax.vmap(env.step)(state, action)
        logits, value = see(params, state)
        reward = state.rewards[jnp.arange(games), mover]
        return mctx.RecurrentFnOutput(
            reward=reward, discount=jnp.where(state.terminated, 0.0, -1.0), prior_logits=logits,
            value=jnp.where(state.terminated, 0.0, value)), state

    @jax.jit
    def play(carry):
        params, state, key = carry

        def step(state, key):
            search_key, reset_key = jax.random.split(key)
            logits, value = see(params, state)
            root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=state)
            policy = mctx.gumbel_muzero_policy(params, search_key, root, recurrent, simulations,
                                              invalid_actions=~state.legal_action_mask)
            after = jax.vmap(auto_reset(env.step, env.init))(state, policy.action,
                                                             jax.random.split(reset_key, games))
            reward = after.rewards[jnp.arange(games), state.current_player]
            return after, (state.observation, policy.action_weights, reward, after.terminated)
        key, own = jax.random.split(key)
        state, trajectory = lax.scan(step, state, jax.random.split(own, length))
        return (params, state, key), trajectory

    def start(key):
        state = jax.vmap(env.init)(jax.random.split(key, games))
        return net.init(key, state.observation), state, key
    return start, play
