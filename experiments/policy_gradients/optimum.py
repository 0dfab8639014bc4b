"""Returns of the best policies on the evaluation's episodes: a bound for run.py's figures.

    python experiments/policy_gradients/optimum.py               # some minutes

Pendulum's bound is dynamic programming back from the end of an episode, over a grid of angles,
speeds and torques. Values between them come from bilinear interpolation. The result is played from
the evaluation's own starts. GridNav's bound is the shortest paths. optimum.jsonl has both. --quick:
a coarse grid.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.runs import Log, command, config_of  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.envs import spaces  # noqa: E402
from karpjax.envs.pendulum import MAX_SPEED, MAX_TORQUE  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402


def unseen(source) -> dict:
    """Return running statistics for policies that do not look at their observations."""
    return jax.tree.map(lambda x: jnp.ones(x.shape),
                        jax.eval_shape(source.init, jax.random.key(0))["moments"])


def starts(source):
    """Return the states and the first observations of the evaluation's episodes."""
    action = source.env.actions.example

    def stay(obs, keys):
        return jnp.zeros((source.eval_episodes, *action.shape), action.dtype)

    def play():
        return source.episodes(stay, jnp.arange(source.eval_episodes), unseen(source),
                               states=True)["states"]
    return jax.tree.map(lambda x: x[0], jax.jit(play)())


def pendulum(source, angles: int, speeds: int, torques: int) -> np.ndarray:
    """Return the (episodes,) returns of the best policy that looks one step ahead with the grid's
    values."""
    env, choices = source.env, jnp.linspace(-MAX_TORQUE, MAX_TORQUE, torques)
    angle = jnp.linspace(-jnp.pi, jnp.pi, angles, endpoint=False)
    grid = jnp.stack(jnp.meshgrid(angle, jnp.linspace(-MAX_SPEED, MAX_SPEED, speeds),
                                  indexing="ij"), -1)

    def between(values, joint):
        """Return the value (angles, speeds) -> at one (angle, speed)."""
        x = (joint[0] + jnp.pi) % (2 * jnp.pi) / (2 * jnp.pi) * angles
        y = (joint[1] + MAX_SPEED) / (2 * MAX_SPEED) * (speeds - 1)
        i, j = x.astype(jnp.int32) % angles, jnp.clip(y.astype(jnp.int32), 0, speeds - 2)
        along, up = x - jnp.floor(x), y - j

        def at(i):
            return (1 - up) * values[i % angles, j] + up * values[i % angles, j + 1]
        return (1 - along) * at(i) + along * at(i + 1)

    def judged(values, joint, torque):
        state, out = env.step({"joint": joint, "time": jnp.int32(0)}, torque[None], None)
        return out.reward + between(values, state["joint"]), (state["joint"], out.reward)

    def back(values, _):
        """Return the values a step earlier: the best of the torques, one after the other."""

        def better(k, best):
            value = jax.vmap(jax.vmap(lambda joint: judged(values, joint, choices[k])[0]))
            return jnp.maximum(best, value(grid))
        none = jnp.full(values.shape, -jnp.inf)
        return jax.lax.fori_loop(0, torques, better, none), values

    _, after = jax.jit(lambda: jax.lax.scan(back, jnp.zeros((angles, speeds)),
                                            length=env.max_steps))()

    def forward(joint, values):
        worth, (joints, rewards) = jax.vmap(lambda torque: judged(values, joint, torque))(choices)
        return joints[worth.argmax()], rewards[worth.argmax()]

    play = jax.vmap(lambda joint, after: jax.lax.scan(forward, joint, after, reverse=True)[1].sum(),
                    (0, None))
    return np.asarray(jax.jit(play)(starts(source)["joint"], after))


def study(options, workdir):
    log = Log(options.log)
    size = dict(angles=31, speeds=31,
                torques=5) if options.quick else dict(angles=361, speeds=321, torques=81)
    returns = pendulum(assemble(*config_of("ppo_pendulum")).source, **size)
    made = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    log({"env": "pendulum", "return": float(returns.mean()), "sd": float(returns.std()),
         "episodes": len(returns), **size,
         **made})
    steps = np.asarray(starts(assemble(*config_of("ppo_grid_nav")).source)["shortest"])
    log({"env": "grid_nav", "return": float((1 - 0.01 * steps).mean()),
         "length": float(steps.mean()), "episodes": len(steps),
         **made})


if __name__ == "__main__":
    command(study, HERE / "optimum.jsonl")
