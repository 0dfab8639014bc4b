"""Zero-sum games of two players from Pgx (Koyamada et al. 2023), by karpjax/envs/protocol.py.

    config.env = dict(name="pgx:connect_four")                   pip install "karpjax[pgx]"
    config.env = dict(name="pgx:connect_four", opening=4)        # begin after 0 to 4 random moves

A step is one move. Observations are from the point of view of the player to move, and a reward is
that of the player who moved. Players alternate, so the next state's value has the opposite sign,
and the discount is negative (karpjax/tasks/agent.py). The player who begins is drawn at reset: a
seat has no colour. An illegal move ends the game and loses it, as in Pgx.

`Versus` makes a one-player environment of a game, for evaluation: the other player is part of the
environment.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_keys, did_you_mean
from karpjax.core.trees import where
from karpjax.envs.protocol import blamed, imported, TimeStep
from karpjax.envs.spaces import Discrete, sample_legal

# The most moves of a game, of those games whose players take turns.
LONGEST = {"tic_tac_toe": 9, "connect_four": 42, "hex": 122, "othello": 128, "go_9x9": 162}


class Pgx:
    """Game of Pgx that begins after 0 to `opening` random moves."""
    players = 2

    def __init__(self, name: str, opening: int = 0, **options):
        pgx = imported("pgx")
        if name not in LONGEST:
            raise UserError(f"config.env: no game {name!r} of two players who move in turn"
                            f"{did_you_mean(name, LONGEST)}")
        check_keys(options, ("opening",), "config.env")
        if opening < 0:
            raise UserError("config.env.opening: expected a number of moves, at least 0, "
                            f"found {opening}")
        with blamed(f"config.env: pgx cannot make {name}"):
            env = pgx.make(name)
        # Traced once. A run plays them at a dozen places, and that took a third of its start.
        self.begin, self.move = jax.jit(env.init, inline=True), jax.jit(env.step, inline=True)
        self.name, self.opening = name, opening
        self.max_steps = LONGEST[name]
        self.actions = Discrete(env.num_actions)

    def reset(self, key):
        """Return the empty board or, with an opening, a position after random moves."""
        # An opening teaches to play positions that the players' own moves would never reach.
        state = self.begin(key)
        if self.opening:
            key, number_key = jax.random.split(key)
            moves = jax.random.randint(number_key, (), 0, self.opening + 1)

            def move(i, state):
                action = sample_legal(state, observe(state), jax.random.fold_in(key, i))
                after = self.move(state, action)
                return where((i < moves) & ~after.terminated, after, state)
            state = jax.lax.fori_loop(0, self.opening, move, state)
        return state, observe(state)

    def step(self, state, action, key) -> tuple:
        mover = self.to_move(state)
        state = self.move(state, action)
        obs = observe(state)
        reward, truncated = state.rewards[mover], jnp.bool_(False)
        return state, TimeStep(obs, reward, state.terminated, truncated, obs)

    def to_move(self, state):
        """Return the seat, 0 or 1, of the player whose turn it is."""
        return state.current_player


def observe(state) -> dict:
    return {"obs": state.observation.astype(jnp.float32), "legal": state.legal_action_mask}


class Versus:
    """One-player environment: seat 0 of a game against an opponent in seat 1.

    A step is a move and the answer to it. The opponent is a policy, (state, obs, key) -> action.
    """

    def __init__(self, game, opponent: Callable):
        self.game, self.opponent = game, opponent
        self.actions, self.max_steps = game.actions, game.max_steps

    def reset(self, key):
        start_key, key = jax.random.split(key)
        state, obs = self.game.reset(start_key)
        begun, out = self.answered(state, obs, key)
        begins = self.game.to_move(state) == 0
        return where(begins, state, begun), where(begins, obs, out.obs)

    def step(self, state, action, key) -> tuple:
        own_key, key = jax.random.split(key)
        state, out = self.game.step(state, action, own_key)
        after, answer = self.answered(state, out.obs, key)
        answer = answer._replace(reward=out.reward - answer.reward)
        done = out.terminated | out.truncated
        return where(done, state, after), where(done, out, answer)

    def answered(self, state, obs, key):
        """Return the state and TimeStep after the opponent's move."""
        choice_key, key = jax.random.split(key)
        return self.game.step(state, self.opponent(state, obs, choice_key), key)
