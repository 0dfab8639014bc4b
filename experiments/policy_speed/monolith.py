"""PPO as one function in one jit, in the shape of PureJaxRL (Lu et al. 2022), for comparison with
the shared step.

Only CartPole's dynamics are karpjax's: scan over updates of (scan over steps, GAE, scan over epochs
of scan over minibatches). As there, minibatches are drawn from all steps of all environments,
advantages are normalised in each, and an episode that was cut counts as ended.
"""
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import optax

from karpjax.envs.cartpole import CartPole


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        def layer(width, gain):
            return nn.Dense(width, kernel_init=nn.initializers.orthogonal(gain))

        y = x
        for _ in range(2):
            y = nn.tanh(layer(self.width, 2**0.5)(y))
        z = x
        for _ in range(2):
            z = nn.tanh(layer(self.width, 2**0.5)(z))
        return layer(2, 0.01)(y), layer(1, 1.0)(z)[..., 0]


def make(*, envs: int, length: int, minibatches: int, epochs: int, updates: int, steps: int,
         rate: float = 1e-3, discount: float = 0.99, trace: float = 0.95, clip: float = 0.2,
         width: int = 64):
    """Return (start(key) -> carry, train(carry) -> (carry, returns of the episodes under way)):
    `updates` rollouts a call."""
    env, network = CartPole(), Network(width)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5),
                            optax.adam(optax.linear_schedule(rate, 0.0, steps), eps=1e-5))

    def start(key):
        net_key, env_key, key = jax.random.split(key, 3)
        params = network.init(net_key, jnp.zeros((1, 4)))
        state, obs = jax.vmap(env.reset)(jax.random.split(env_key, envs))
        return params, optimizer.init(params), state, obs, jnp.zeros(envs), key

    def loss(params, rows):
        obs, action, old, value, target, advantage = rows
        logits, values = network.apply(params, obs)
        log_p = jax.nn.log_softmax(logits)
        ratio = jnp.exp(jnp.take_along_axis(log_p, action[:, None], 1)[:, 0] - old)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
        return -gain.mean() + 0.5 * ((values - target) ** 2).mean()

    def update(carry, _):
        params, opt_state, state, obs, returns, key = carry

        def act(carry, key):
            state, obs, returns = carry
            act_key, step_key, reset_key = jax.random.split(key, 3)
            logits, value = network.apply(params, obs)
            action = jax.random.categorical(act_key, logits)
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
            new, out = jax.vmap(env.step)(state, action, jax.random.split(step_key, envs))
            fresh, fresh_obs = jax.vmap(env.reset)(jax.random.split(reset_key, envs))
            over = out.terminated | out.truncated

            def choose(a, b):
                return jnp.where(over.reshape(-1, *[1] * (a.ndim - 1)), a, b)

            new, new_obs = jax.tree.map(choose, fresh, new), choose(fresh_obs, out.obs)
            returns = returns + out.reward
            row = (obs, action, log_p, value, out.reward, over)
            return (new, new_obs, jnp.where(over, 0.0, returns)), row

        key, rollout_key, epoch_key = jax.random.split(key, 3)
        (state, obs, returns), rows = lax.scan(act, (state, obs, returns),
                                               jax.random.split(rollout_key, length))
        _, last = network.apply(params, obs)

        def gae(carry, row):
            later, next_value = carry
            value, reward, over = row
            delta = reward + discount * next_value * (1 - over) - value
            later = delta + discount * trace * (1 - over) * later
            return (later, value), later
        _, advantage = lax.scan(gae, (jnp.zeros(envs), last), rows[3:], reverse=True)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]),
                            (*rows[:4], advantage + rows[3], advantage))

        def epoch(carry, key):
            order = jax.random.permutation(key, envs * length)
            parts = jax.tree.map(lambda x: x[order].reshape(minibatches, -1, *x.shape[1:]), flat)

            def minibatch(carry, rows):
                params, opt_state = carry
                value, grads = jax.value_and_grad(loss)(params, rows)
                updates, opt_state = optimizer.update(grads, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), value
            return lax.scan(minibatch, carry, parts)
        (params, opt_state), _ = lax.scan(epoch, (params, opt_state),
                                          jax.random.split(epoch_key, epochs))
        return (params, opt_state, state, obs, returns, key), returns.mean()

    return jax.jit(start), jax.jit(lambda carry: lax.scan(update, carry, None, updates),
                                   donate_argnums=0)
