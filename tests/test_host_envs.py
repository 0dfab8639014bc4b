"""Environments on the host: Gymnasium's behind our protocol, pure, and so resumed bit by bit."""
import sys

import command
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.envs import protocol, spaces
from karpjax.run.loop import fit

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
E, T = 3, 40


def same_bits(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(a), jax.device_get(b)))


class Faulty(gymnasium.Env):
    """An environment that fails on its third step, but not from the seed of the check."""
    observation_space = gymnasium.spaces.Discrete(4)
    action_space = gymnasium.spaces.Discrete(2, start=1)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        assert action in self.action_space
        self.time += 1
        if self.time == 3 and self.np_random_seed != 0:
            raise ValueError("the engine stalled")
        return self.time % 4, float(action), False, False, {}


class Words(Faulty):
    action_space = gymnasium.spaces.Text(3)


for name, kind, limit in (("Faulty-v0", Faulty, 10), ("Endless-v0", Faulty, None),
                          ("Words-v0", Words, 10)):
    gymnasium.register(name, entry_point=kind, max_episode_steps=limit)


def rollout(env, seed: int = 0, steps: int = T):
    """Play at random with automatic resets.

    Return (first obs, last state, (actions (T, E), TimeSteps (T, E), seeds (T, E))).
    """
    def step(state, t):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), t), 2 * E)
        action = jax.vmap(lambda k: env.actions.sample(k))(keys[:E])
        seeds = state["seed"]
        advance = jax.vmap(lambda s, a, k: protocol.auto_reset(env, s, a, k))
        state, out = advance(state, action, keys[E:])
        return state, (action, out, seeds)

    state, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(seed), E))
    return obs, *jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps)))(state)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_what_gymnasium_plays(name):
    env = kj.envs.make_env(f"gymnasium:{name}", max_steps=25)
    protocol.check_env(env)
    obs, _, (actions, out, seeds) = jax.device_get(rollout(env))
    low, high = (-2, 2) if name == "Pendulum-v1" else (None, None)
    ends = 0
    for e in range(E):
        theirs = gymnasium.make(name, max_episode_steps=25)
        np.testing.assert_array_equal(obs[e], theirs.reset(seed=int(seeds[0, e]))[0])
        for t in range(T):
            action = actions[t, e] if low is None else np.clip(actions[t, e], low, high)
            seen, reward, terminated, truncated, _ = theirs.step(action)
            np.testing.assert_array_equal(out.final_obs[t, e], np.float32(seen))
            ours = (out.reward[t, e], out.terminated[t, e], out.truncated[t, e])
            assert ours == (np.float32(reward), terminated, truncated)
            if terminated or truncated:
                seen, ends = theirs.reset(seed=int(seeds[t + 1, e]))[0], ends + 1
            np.testing.assert_array_equal(out.obs[t, e], np.float32(seen))
    assert ends >= E


def test_simulators_are_a_cache():
    """A state leads to the same next state, whatever the simulators did before."""
    env = kj.envs.make_env("gymnasium:CartPole-v1")
    _, state, _ = rollout(env)
    step = jax.jit(jax.vmap(env.step))
    actions, keys = jnp.ones(E, jnp.int32), jax.random.split(jax.random.key(1), E)
    assert len(env.simulators.kept) == E
    first = step(state, actions, keys)
    assert same_bits(first, step(state, actions, keys))  # they have moved on: played again
    env.simulators.kept.clear()
    assert same_bits(first, step(state, actions, keys))                       # a new process
    assert len(env.simulators.kept) + len(env.simulators.idle) <= env.simulators.limit
    # The check can fail.
    assert not np.array_equal(first[1].obs, step(state, 0 * actions, keys)[1].obs)


def test_beyond_the_end_nothing_changes():
    env = kj.envs.make_env("gymnasium:CartPole-v1", max_steps=3)
    state, _ = env.reset(jax.random.key(0))
    for t in range(6):
        state, out = env.step(state, jnp.int32(t % 2), jax.random.key(0))
        assert out.truncated == (t == 2) and (out.reward == 1) == (t < 3)
        assert out.terminated == (t > 2)


def config(**own):
    """Return a small config of PPO on Gymnasium's CartPole, with changes."""
    return kj.config(task="ppo", **{**dict(
        env=dict(name="gymnasium:CartPole-v1", max_steps=20), discount=0.99, gae_lambda=0.95,
        clip=0.2, value_clip=0.0, target_kl=0.0, value_coefficient=0.5, entropy_coefficient=0.01,
        steps=16, save_every=4, eval_every=8, log_every=1, model=dict(name="actor_critic", width=8),
        optimizer=dict(name="adam", learning_rate=1e-2),
        data=dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, normalize=("obs", "reward"),
                  eval_episodes=4)), **own})


@pytest.mark.full
def test_a_run_that_was_stopped_ends_the_same(tmp_path):
    """A resume plays the episodes under way again. Evaluation uses the same simulators."""
    whole = fit(config(), tmp_path / "whole", mesh=mesh_of(1))
    fit(config(steps=8), tmp_path / "cut", mesh=mesh_of(1))
    cut = fit(config(), tmp_path / "cut", mesh=mesh_of(1))
    assert cut["resumed"] and whole["eval/return"] == cut["eval/return"]
    assert whole["eval/return"] > 5
    ends = [kj.restore(tmp_path / name) for name in ("whole", "cut")]
    assert same_bits(ends[0].params, ends[1].params)
    assert (tmp_path / "whole" / "episode.gif").stat().st_size > 1000
    assert ends[0].act(np.zeros((2, 4), np.float32)).shape == (2,)


def test_several_simulated_devices_are_refused(tmp_path):
    with pytest.raises(kj.UserError, match="on CPUs for one device: found 1 and 2"):
        fit(config(), tmp_path / "two", mesh=mesh_of(2))
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("options, says", [
    (dict(name="gymnasium:CartPol-v1"), "Did you mean: `CartPole`"),
    (dict(name="gymnasium:CartPole-v1", size=3), "'size'"),
    (dict(name="gymnasium:Endless-v0"), "max_steps=1000"),
    (dict(name="gymnasium:Words-v0"), "takes actions of Text")])
def test_bad_input(options, says):
    with pytest.raises(kj.UserError, match=says):
        kj.envs.make_env(**options)


def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(kj.UserError, match=r'pip install "karpjax\[gymnasium\]"'):
        kj.envs.make_env("gymnasium:CartPole-v1")


def test_spaces_are_translated():
    """Discrete actions may start at 1. An observation that is a number comes as one-hot."""
    env = kj.envs.make_env("gymnasium:Faulty-v0")
    state, obs = env.reset(jax.random.key(0))
    state, out = env.step(state, jnp.int32(1), jax.random.key(0))
    assert env.actions == spaces.Discrete(2) and obs.tolist() == [1, 0, 0, 0] and out.reward == 2


def test_a_simulator_that_fails_is_one_line(tmp_path):
    """A command prints the callback's error, not the compiled program's page about it."""
    task = tmp_path / "faulty.py"
    task.write_text(f"import sys\nsys.path[:0] = {sys.path!r}\nimport test_host_envs\n"
                    "def get_config():\n"
                    "    return test_host_envs.config(env=dict(name='gymnasium:Faulty-v0'))\n")
    command.refused(command.command("train", f"--config={task}", f"--workdir={tmp_path / 'run'}"),
                    "failed on the action", "the engine stalled")
