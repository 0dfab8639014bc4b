"""Games of two players, each other's loss: Pgx's (Koyamada et al. 2023), by the protocol of karpjax/envs/protocol.py.

    config.env = dict(name="pgx:connect_four")                   pip install "karpjax[pgx]"
    config.env = dict(name="pgx:connect_four", opening=4)        # games begin after 0 to 4 moves of chance

A step is one move, and players move in turn. All is seen by the one who moves: the observation, and the reward of the one who
moved; so from one step to the next gain becomes loss, and the discount of what follows is negative (karpjax/tasks/agent.py). Which
player begins is drawn at reset: a seat has no colour. An illegal move ends the game and loses it, as in Pgx.

`Versus` makes a one-player environment of it, for evaluation: the other player is part of the world.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_keys, did_you_mean, extra
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete, sample_legal

LONGEST = {"tic_tac_toe": 9, "connect_four": 42, "hex": 122, "othello": 128, "go_9x9": 162}   # moves, of those that take turns


class Pgx:
    players = 2

    def __init__(self, name: str, opening: int = 0, **options):
        pgx = extra("pgx")
        if name not in LONGEST:
            raise UserError(f"config.env: no game {name!r} of two players who move in turn{did_you_mean(name, LONGEST)}")
        check_keys(options, ("opening",), "config.env")
        if opening < 0:
            raise UserError(f"config.env.opening: expected a number of moves, at least 0, found {opening}")
        self.env, self.name, self.max_steps, self.opening = pgx.make(name), name, LONGEST[name], opening
        self.actions = Discrete(self.env.num_actions)

    def reset(self, key):
        """The empty board; or, so that play off the beaten track is learned too, a position after moves of chance."""
        state = self.env.init(key)
        if self.opening:
            key, number_key = jax.random.split(key)
            moves = jax.random.randint(number_key, (), 0, self.opening + 1)

            def move(i, state):
                after = self.env.step(state, sample_legal(state, observe(state), jax.random.fold_in(key, i)))
                return choose((i < moves) & ~after.terminated, after, state)
            state = jax.lax.fori_loop(0, self.opening, move, state)
        return state, observe(state)

    def step(self, state, action, key) -> tuple:
        mover = self.to_move(state)
        state = self.env.step(state, action)
        obs = observe(state)
        return state, TimeStep(obs, state.rewards[mover], state.terminated, jnp.bool_(False), obs)

    def to_move(self, state):
        """The seat, 0 or 1, of the player whose turn it is."""
        return state.current_player


def observe(state) -> dict:
    return {"obs": state.observation.astype(jnp.float32), "legal": state.legal_action_mask}


class Versus:
    """Seat 0 of a game, where a policy (state, obs, key) -> action has seat 1; one step is a move and the answer to it."""

    def __init__(self, game, opponent: Callable):
        self.game, self.opponent, self.actions, self.max_steps = game, opponent, game.actions, game.max_steps

    def reset(self, key):
        start_key, key = jax.random.split(key)
        state, obs = self.game.reset(start_key)
        begun, out = self.answered(state, obs, key)
        begins = self.game.to_move(state) == 0
        return choose(begins, state, begun), choose(begins, obs, out.obs)

    def step(self, state, action, key) -> tuple:
        own_key, key = jax.random.split(key)
        state, out = self.game.step(state, action, own_key)
        after, answer = self.answered(state, out.obs, key)
        over = out.terminated | out.truncated
        return choose(over, state, after), choose(over, out, answer._replace(reward=out.reward - answer.reward))

    def answered(self, state, obs, key):
        choice_key, key = jax.random.split(key)
        return self.game.step(state, self.opponent(state, obs, choice_key), key)


def choose(condition, tree, other):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, other)
