"""What the tasks that learn from environments share: environment, network, how it acts, how it is evaluated and shown.

A task gives the rest: what a rollout's steps are worth (`examples`) and the loss. See karpjax/tasks/ppo.py.
"""
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax.core import old_names
from karpjax.core.errors import UserError, check_keys
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.envs import environment, protocol
from karpjax.envs.pgx import Versus
from karpjax.envs.spaces import sample_legal
from karpjax.rl import advantages, distributions

ROLLOUT = ("num_envs", "num_steps", "minibatches", "epochs", "normalize", "eval_episodes")        # and, of games, "pool"
FRAMES = 250  # of a picture


class Agent:
    """config.env, config.model and config.data; `own` and `optional` are the task's keys of the config. An `env` of your own
    goes to the task's build: `from karpjax.tasks import ppo`, `def build(config): return ppo.build(config, env=Mine())`."""

    def __init__(self, config, own: Sequence[str], env=None, critic: bool = True, optional: Sequence[str] = ()):
        config = old_names.for_our_task(config)
        check_own_keys(config, "env", "discount", *own, *optional)
        check_keys(config, config, "config", required=("discount", *own, *(() if env else ("env",))))
        for name in ("discount", "gae_lambda"):
            if not 0 <= config.get(name, 0) <= 1:
                raise UserError(f"config.{name}: expected 0 to 1, found {config[name]}")
        self.config = config
        self.env = env or environment(config)
        self.game = getattr(self.env, "players", 1) == 2
        self.normalizes = config.get("normalize_advantages", not self.game)
        if not isinstance(self.normalizes, bool):
            raise UserError(f"config.normalize_advantages: expected True or False, found {self.normalizes!r}")
        check_keys(config.data, (*ROLLOUT, *(("pool",) if self.game else ())), "config.data", required=("num_envs", "num_steps"))
        # Of a game the next state is seen by the other player, whose gain is this one's loss. A trace of GAE, which decays
        # with the discount, turns its sign with it: A(t) = delta(t) - discount trace A(t+1), of the other's advantage.
        self.discount = -config.discount if self.game else config.discount
        _, obs = protocol.check_env(self.env)
        self.model = kj.models.make_model(config.model, actions=self.env.actions, obs_shape=protocol.array_of(obs).shape,
                                    critic=critic)

    def __call__(self, params, model_state, obs, key=None):
        """(distribution over actions, values, model_state) for observations with any leading axes."""
        (outputs, values), model_state = kj.apply(self.model, params, model_state, obs, key)
        return distributions.of(self.env.actions, outputs), values, model_state

    def see(self, variables: dict, obs):
        """The same without training, from variables; "source" in them is the rollout's, not the network's."""
        params, model_state = split_variables({k: v for k, v in variables.items() if k != "source"})
        policy, values, _ = self(params, model_state, obs)
        return policy, values

    def act(self, variables: dict, obs, keys):
        """Sampled actions, one key an environment; what a loss needs of the policy that chose them is kept."""
        policy, values = self.see(variables, obs)
        actions = jax.vmap(lambda policy, key: policy.sample(key))(policy, keys)
        return actions, {"log_prob": policy.log_prob(actions), "value": values}

    def judged(self, trajectory: dict, variables: dict) -> dict:
        """The batch of an actor-critic: advantages by GAE, normalised over the rollout, and what the values should be.

        With config.normalize_advantages = False they are left as they are, and so are a game's. Where rewards have one scale
        and a policy always ends the same, advantages are the values' errors and no more: normalised, they would outweigh the
        entropy bonus and drive it to any action at all, and it would never find the ones that save it.
        """
        _, next_value = self.see(variables, trajectory["final_obs"])
        advantage = advantages.gae(*(trajectory[name] for name in ("reward", "value")), next_value, trajectory["terminated"],
                                   trajectory["truncated"], self.discount, self.config.gae_lambda)
        weight = trajectory.get("own", jnp.ones_like(advantage))
        return {**{name: trajectory[name] for name in ("obs", "action", "log_prob", "value")},
                "target": advantage + trajectory["value"],
                "advantage": advantages.normalized(advantage, weight) if self.normalizes else advantage, "weight": weight}

    def task(self, examples: Callable, loss: Callable, act: Callable | None = None) -> kj.Task:
        """act   of a game: who plays, (variables, obs (E, ...), keys (E,), states (E, ...)) -> as `act` above, the default"""
        data = {"eval_episodes": 64, **self.config.data}
        if self.game:
            _, obs = jax.eval_shape(self.env.reset, jax.random.key(0))
            params = jax.eval_shape(self.model.init, jax.random.key(0), obs)["params"]
            source = kj.sources.SelfPlay(self.env, act or (lambda variables, obs, keys, env: self.act(variables, obs, keys)),
                                         examples, params=params, eval_env=Versus(self.env, sample_legal), **data)
        else:
            source = kj.sources.Rollout(self.env, self.act, examples, discount=self.discount, **data)
        moments = lambda variables: variables.get("source", {}).get("moments", {})

        def most_likely(variables):
            return lambda obs, keys: self.see(variables, obs)[0].mode()

        def evaluate(variables, batch):
            best = source.episodes(most_likely(variables), batch["seed"], moments(variables))
            sampled = source.episodes(lambda obs, keys: self.act(variables, obs, keys)[0], batch["seed"], moments(variables))
            pairs = {"return": best["return"], "length": best["length"], "return_sampled": sampled["return"]}
            return {name: kj.mean(x, batch["weight"]) for name, x in pairs.items()}

        def predict(variables, obs):
            return most_likely(variables)(source.seen(moments(variables), obs), None)

        def show(variables, batch):
            """An episode: the most likely actions from the first seed."""
            play = jax.jit(lambda: source.episodes(most_likely(variables), batch["seed"][:1], moments(variables), states=True))
            found = jax.device_get(play())
            frames = np.linspace(0, found["length"][0] - 1, min(FRAMES, int(found["length"][0]))).astype(int)
            return {"episode.gif": [self.env.draw(jax.tree.map(lambda x: x[t, 0], found["states"])) for t in frames]}

        return kj.Task(self.model, source, loss, evaluate=evaluate, predict=predict, inputs="obs",
                       methods={"act": jax.jit(predict)}, show=show if hasattr(self.env, "draw") else None)


def recent(batch: dict) -> dict:
    """Metrics of every task: mean return and length of the last episodes of each environment, and the share of these that
    there have been: below 1 those that ended soon are too many."""
    found = {name: kj.mean(batch["recent"][name], batch["recent"]["known"]) for name in ("return", "length")}
    return {**found, "recent": kj.mean(batch["recent"]["known"])}


def entropy_bonus(policy, coefficient: float, weight):
    """As a loss (Williams and Peng 1991): what is added for a policy that stays undecided."""
    return kj.mean(-coefficient * policy.entropy(), weight)
