"""The text of a program: loops count as often as they turn, one in another too."""
import math

import jax
import jax.numpy as jnp
import pytest

import karpjax as kj
from karpjax.precompile import hlo
from karpjax.precompile.compile import as_flags

TEXT = """HloModule made_up, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum.1 = f32[] add(%a, %b)
}

%body (x: s32[]) -> s32[] {
  %sum = f32[8]{0} all-reduce(%y), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %next = s32[] fusion(%sum), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"7"}
}

%five (x: s32[]) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%x, %limit), direction=LT, metadata={op_name="while/cond/lt"}
}

%turn (x: s32[]) -> s32[] {
  ROOT %inner = s32[] while(%x), condition=%five, body=%body
}

%three (x: s32[]) -> pred[] {
  %limit.1 = s32[] constant(3)
  ROOT %less.1 = pred[] compare(%x, %limit.1), direction=LT
}

ENTRY %main (x: s32[]) -> s32[] {
  %other = f32[2,8]{1,0} all-reduce(%z), channel_id=2, replica_groups={{0,1}}, to_apply=%add
  %once = s32[] fusion(%x), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"1"}
  ROOT %outer = s32[] while(%once), condition=%three, body=%turn
}
"""


def test_a_loop_in_a_loop():
    assert hlo.turns(TEXT) == {"add": 15 + 15 + 1 + 1, "body": 15, "five": 15, "turn": 3,
                               "three": 3, "main": 1}
    assert hlo.cycles(TEXT) == 1 + 15 * 7
    assert hlo.collectives(TEXT) == {"all-reduce": (15 + 1, 15 * 32 + 64)}


@pytest.mark.parametrize("condition", ["compare(%x, %limit), direction=GT",
                                       "compare(%x, %limit), direction=NE", "fusion(%x)"])
def test_mutant_a_condition_that_does_not_count(condition):
    """The turns of such a loop and of its inner loops are unknown, those beside it are known.

    Its collectives count one turn.
    """
    text = TEXT.replace("compare(%x, %limit), direction=LT", condition)
    assert hlo.turns(text)["turn"] == 3 and math.isnan(hlo.turns(text)["body"])
    assert math.isnan(hlo.cycles(text))
    assert hlo.collectives(text) == {"all-reduce": (2, 32 + 64)}


def test_both_branches_count():
    text = TEXT.replace("while(%once), condition=%three, body=%turn",
                        "conditional(%p, %once, %once), true_computation=%turn, "
                        "false_computation=%body")
    assert hlo.cycles(text) == 1 + 5 * 7 + 7
    text = TEXT.replace("while(%once), condition=%three, body=%turn",
                        "conditional(%p, %once, %once), branch_computations={%turn, %body}")
    assert hlo.cycles(text) == 1 + 5 * 7 + 7


def test_a_real_program():
    """This machine's own compiler writes the same language."""
    def nested(x):
        def inner(x, _):
            return jnp.sin(x @ x), None

        def outer(x, _):
            return jax.lax.scan(inner, x, length=7)[0] + 1, None
        return jax.lax.scan(outer, x, length=11)[0]
    times = hlo.turns(jax.jit(nested).lower(jnp.ones((64, 64))).compile().as_text())
    assert {11.0, 77.0} <= set(times.values()), times


def test_a_change_is_told_as_what_the_command_line_takes():
    """A key that the config lacks is refused as a flag, so that it must be added to its file."""
    config = kj.config(model=dict(name="masked_lm", remat=False), data=dict(name="imdb"))
    change = {"mesh.fsdp": 4, "model.remat": True, "accumulate": 2}
    assert as_flags(config, change) == \
        "--config.mesh.fsdp=4 --config.model.remat=True --config.accumulate=2"
    del config.model["remat"]
    assert as_flags(config, change) == ("--config.mesh.fsdp=4 --config.accumulate=2 and "
                                        "config.model.remat = True in the config file")
    assert as_flags(config, {"data.on_device": "no"}) == \
        "config.data.on_device = 'no' in the config file"
