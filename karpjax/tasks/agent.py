"""Agent: the part that all tasks on environments share, from network to evaluation and pictures.

A task adds the rest: how a rollout's steps are judged (`examples`) and the loss, as in
karpjax/tasks/ppo.py.
"""
from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp

import karpjax as kj
from karpjax.core import old_names
from karpjax.core.errors import UserError, check_keys
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.envs import draw, environment, protocol
from karpjax.envs.pgx import Versus
from karpjax.envs.spaces import sample_legal
from karpjax.rl import advantages, distributions

# Keys of config.data; a game's may have "pool" too.
ROLLOUT = ("num_envs", "num_steps", "minibatches", "epochs", "normalize", "eval_episodes")


@old_names.old_attributes(see="policy_and_value", judged="with_advantages")
class Agent:
    """Environment, network and rollout of a config: config.env, config.model and config.data.

    own, optional   the task's keys of the config
    env             your own environment, in place of config.env: `from karpjax.tasks import ppo`,
                    `def build(config): return ppo.build(config, env=Mine())`
    critic          whether the network has a value
    """

    def __init__(self, config, own: Sequence[str], env=None, critic: bool = True,
                 optional: Sequence[str] = ()):
        config = old_names.for_our_task(config)
        check_own_keys(config, "env", "discount", *own, *optional)
        required = ("discount", *own, *(() if env else ("env",)))
        check_keys(config, config, "config", required=required)
        for name in ("discount", "gae_lambda"):
            if not 0 <= config.get(name, 0) <= 1:
                raise UserError(f"config.{name}: expected 0 to 1, found {config[name]}")
        self.config = config
        self.env = env or environment(config)
        self.game = getattr(self.env, "players", 1) == 2
        self.normalizes = config.get("normalize_advantages", not self.game)
        if not isinstance(self.normalizes, bool):
            raise UserError("config.normalize_advantages: expected True or False, "
                            f"found {self.normalizes!r}")
        keys = (*ROLLOUT, "pool") if self.game else ROLLOUT
        check_keys(config.data, keys, "config.data", required=("num_envs", "num_steps"))
        # In a game, the next state is the other player's, whose gain is this one's loss. GAE decays
        # with the discount, so its sign changes with it, A(t+1) being the other's advantage:
        # A(t) = delta(t) - discount lambda A(t+1).
        self.discount = -config.discount if self.game else config.discount
        _, self.obs = protocol.check_env(self.env)
        self.model = kj.models.make_model(config.model, actions=self.env.actions, critic=critic,
                                          obs_shape=protocol.array_of(self.obs).shape)

    def __call__(self, params, model_state, obs, key=None):
        """Return (distribution over actions, values, model_state) for any leading axes of obs."""
        (outputs, values), model_state = kj.apply(self.model, params, model_state, obs, key)
        return distributions.of(self.env.actions, outputs), values, model_state

    def policy_and_value(self, variables: dict, obs):
        """Return (distribution over actions, values) without training."""
        # "source" in the variables is the rollout's, not the network's.
        network = {name: x for name, x in variables.items() if name != "source"}
        params, model_state = split_variables(network)
        policy, values, _ = self(params, model_state, obs)
        return policy, values

    def act(self, variables: dict, obs, keys):
        """Return sampled actions, one key an environment, and their log_prob and value."""
        policy, values = self.policy_and_value(variables, obs)
        actions = jax.vmap(lambda policy, key: policy.sample(key))(policy, keys)
        return actions, {"log_prob": policy.log_prob(actions), "value": values}

    def with_advantages(self, trajectory: dict, variables: dict) -> dict:
        """Return an actor-critic's batch: advantages by GAE, and the targets of the values."""
        _, next_value = self.policy_and_value(variables, trajectory["final_obs"])
        advantage = advantages.gae(trajectory["reward"], trajectory["value"], next_value,
                                   trajectory["terminated"], trajectory["truncated"],
                                   self.discount, self.config.gae_lambda)
        target = advantage + trajectory["value"]
        weight = trajectory.get("learner", jnp.ones_like(advantage))
        # Not in games, nor with normalize_advantages=False. If rewards have one scale and a policy
        # always ends the same, advantages are the values' errors and no more. Normalised, they
        # would outweigh the entropy bonus and drive the policy to any action at all, and it would
        # never find the ones that save it.
        if self.normalizes:
            advantage = advantages.normalized(advantage, weight)
        return {**{name: trajectory[name] for name in ("obs", "action", "log_prob", "value")},
                "target": target, "advantage": advantage, "weight": weight}

    def source(self, examples: Callable, act: Callable | None):
        """Return the Rollout, or of a game the SelfPlay, that config.data describes."""
        data = {"eval_episodes": 64, **self.config.data}
        if not self.game:
            return kj.sources.Rollout(self.env, self.act, examples, discount=self.discount, **data)

        def act_by_sampling(variables, obs, keys, states):
            return self.act(variables, obs, keys)
        params = jax.eval_shape(self.model.init, jax.random.key(0), self.obs)["params"]
        return kj.sources.SelfPlay(self.env, act or act_by_sampling, examples, params=params,
                                   eval_env=Versus(self.env, sample_legal), **data)

    def most_likely(self, variables: dict, obs, keys):
        """Return the most likely actions."""
        return self.policy_and_value(variables, obs)[0].mode()

    def task(self, examples: Callable, loss: Callable, act: Callable | None = None) -> kj.Task:
        """Return the task of a loss on examples. A game's `act` gets (..., env states) too."""
        source = self.source(examples, act)

        def evaluate(variables, batch):
            best = source.episodes(functools.partial(self.most_likely, variables), batch["seed"],
                                   stats_of(variables))
            sampled = source.episodes(lambda obs, keys: self.act(variables, obs, keys)[0],
                                      batch["seed"], stats_of(variables))
            means = {**best, "return_sampled": sampled["return"]}
            return {name: kj.mean(x, batch["weight"]) for name, x in means.items()}

        @jax.jit
        def most_likely(variables, obs):
            obs = source.normalize_obs(stats_of(variables), obs)
            return self.most_likely(variables, obs, None)

        def predict(variables, obs):
            """Return the environment's own actions for its own observations."""
            obs = protocol.encode(self.env, obs, self.obs)
            return protocol.decode(self.env, most_likely(variables, obs))

        def show(variables, batch):
            """Draw an episode: the most likely actions from the first seed."""
            policy = functools.partial(self.most_likely, variables)
            play = jax.jit(lambda: source.episodes(policy, batch["seed"][:1], stats_of(variables),
                                                   states=True))
            episode = jax.device_get(play())
            return draw.episode(self.env, episode["states"], int(episode["length"][0]))

        return kj.Task(self.model, source, loss, evaluate=evaluate, predict=predict, inputs="obs",
                       methods={"act": predict}, show=show if hasattr(self.env, "draw") else None)


def stats_of(variables: dict) -> dict:
    """Return the running statistics in a run's variables, {} if observations are not normalised."""
    return variables.get("source", {}).get("moments", {})


def recent(batch: dict) -> dict:
    """Return every task's metrics: mean return and length of each environment's last episodes."""
    # "recent" is the share of these that there have been: below 1, short ones are too many.
    episodes, known = batch["recent"], batch["recent"]["known"]
    return {"return": kj.mean(episodes["return"], known),
            "length": kj.mean(episodes["length"], known), "recent": kj.mean(known)}


def entropy_bonus(policy, coefficient: float, weight):
    """Return the loss that rewards a policy for staying undecided (Williams and Peng 1991)."""
    return kj.mean(-coefficient * policy.entropy(), weight)
