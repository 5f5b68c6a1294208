"""Tests how the loops, branches and calls of hand-written programs are counted."""

import pytest

from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.fit import Advice, Memory, report
from distill_jax.cli.cost.hlo import parsed
from distill_jax.cli.cost.roofline import Roofline
from distill_jax.recipes import resolve

H100 = DEVICES["h100"]

STEPS = """HloModule jit_block, is_scheduled=true, entry_computation_layout={(f32[1000,1000]{1,0})->f32[]}

%fused_slice (param_0: f32[1000,256], param_1: s32[]) -> f32[1,256] {
  %param_0 = f32[1000,256]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,256]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,256}
}

%fused_update (param_0.1: f32[1000,256], param_1.1: f32[1,256], param_2: s32[]) -> f32[1000,256] {
  %param_0.1 = f32[1000,256]{1,0} parameter(0)
  %param_1.1 = f32[1,256]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %update = f32[1000,256]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2, %zero.1)
}

%round (arg: (s32[], f32[1000,256])) -> (s32[], f32[1000,256]) {
  %arg = (s32[], f32[1000,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %rows = f32[1000,256]{1,0} get-tuple-element(%arg), index=1
  %row = f32[1,256]{1,0} fusion(%rows, %i), kind=kLoop, calls=%fused_slice
  %rows.1 = f32[1000,256]{1,0} fusion(%rows, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %out = (s32[], f32[1000,256]{1,0}) tuple(%i, %rows.1)
}

%more (arg.1: (s32[], f32[1000,256])) -> pred[] {
  %arg.1 = (s32[], f32[1000,256]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %n = s32[] constant(32)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}

%cheap (a: f32[1000,256]) -> f32[1000,256] {
  ROOT %a = f32[1000,256]{1,0} parameter(0)
}

%dear (b: f32[1000,256]) -> f32[1000,256] {
  %b = f32[1000,256]{1,0} parameter(0)
  ROOT %copied = f32[1000,256]{1,0} copy(%b)
}

%step (arg.2: (s32[], pred[], f32[1000,256])) -> (s32[], pred[], f32[1000,256]) {
  %arg.2 = (s32[], pred[], /*index=2*/f32[1000,256]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%arg.2), index=0
  %begins = pred[] get-tuple-element(%arg.2), index=1
  %rows.2 = f32[1000,256]{1,0} get-tuple-element(%arg.2), index=2
  %begun = f32[1000,256]{1,0} conditional(%begins, %rows.2, %rows.2), true_computation=%dear, false_computation=%cheap, metadata={op_name="jit(block)/while/body/begin_outer/cond"}
  %start = (s32[], f32[1000,256]{1,0}) tuple(%i.2, %begun)
  %inner = (s32[], f32[1000,256]{1,0}) while(%start), condition=%more, body=%round, backend_config={"known_trip_count":{"n":"32"},"known_init_step":{"init":"0","step":"1"}}
  %after = f32[1000,256]{1,0} get-tuple-element(%inner), index=1
  ROOT %out.1 = (s32[], pred[], f32[1000,256]{1,0}) tuple(%i.2, %begins, %after)
}

%forever (arg.3: (s32[], pred[], f32[1000,256])) -> pred[] {
  %arg.3 = (s32[], pred[], f32[1000,256]{1,0}) parameter(0)
  ROOT %begins.1 = pred[] get-tuple-element(%arg.3), index=1
}

ENTRY %main (p: s32[], q: pred[], r: f32[1000,256]) -> f32[1000,256] {
  %p = s32[] parameter(0)
  %q = pred[] parameter(1)
  %r = f32[1000,256]{1,0} parameter(2)
  %t = (s32[], pred[], f32[1000,256]{1,0}) tuple(%p, %q, %r)
  %loop = (s32[], pred[], f32[1000,256]{1,0}) while(%t), condition=%forever, body=%step
  ROOT %result = f32[1000,256]{1,0} get-tuple-element(%loop), index=2
}
"""  # noqa: E501


def test_an_iteration_of_the_outer_loop_with_inner_loops_and_its_most_expensive_branch() -> None:
    step, loops = Roofline(parsed(STEPS), H100).step()
    (loop,) = loops
    # A slice reads and writes 1 KiB and reads its index; so does an update in place.
    assert loop.trips == 32 and loop.round[:3] == (2, 2 * (2 * 1024 + 4), 0)
    assert step[:3] == (1 + 32 * 2, 2 * 1024_000 + 32 * loop.round.bytes, 0)
    assert step.limit == "launches" and step.seconds == pytest.approx(65 * 3e-6)
    usual = Roofline(parsed(STEPS), H100, skipped=("begin_outer",)).step()[0]
    assert usual.kernels == 64
    assert Roofline(parsed(STEPS), H100, skipped=("select",)).step()[0] == step


def test_loops_inside_the_branch_that_counts_and_loops_of_unknown_length() -> None:
    dear = "  ROOT %copied = f32[1000,256]{1,0} copy(%b)"
    inside = """  %b.0 = s32[] constant(0)
  %b.1 = (s32[], f32[1000,256]{1,0}) tuple(%b.0, %b)
  %b.2 = (s32[], f32[1000,256]{1,0}) while(%b.1), condition=%until, body=%round
  ROOT %copied = f32[1000,256]{1,0} get-tuple-element(%b.2), index=1"""
    until = """%until (arg.4: (s32[], f32[1000,256])) -> pred[] {
  %arg.4 = (s32[], f32[1000,256]{1,0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%arg.4), index=0
  ROOT %equal = pred[] compare(%i.4, %i.4), direction=EQ
}

%cheap"""
    text = STEPS.replace(dear, inside).replace("%cheap", until, 1)
    step, loops = Roofline(parsed(text), H100).step()
    assert [loop.trips for loop in loops] == [None, 32]
    assert step.kernels == 2 + 1 + 64  # an iteration of the loop, its condition, and the loop of 32 iterations
    spec = resolve("acc_dd", "cifar10").spec
    report_ = report(H100, spec, Memory(0, 0), text.replace("begin_outer", "other"), 1.0, Advice("", ""))
    assert "loop of unknown length" in report_ and "depends on the data counts as one iteration" in report_


LOOPS = """HloModule loops

%kernels (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %a1 = f32[8]{0} negate(%a)
  ROOT %a2 = f32[8]{0} negate(%a1)
}

%once (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %b1 = f32[8]{0} negate(%b)
}

%checked (c: f32[8]) -> pred[] {
  %c = f32[8]{0} parameter(0)
  %c1 = f32[8]{0} negate(%c)
  %c2 = f32[8]{0} negate(%c1)
  ROOT %c3 = pred[] custom-call(%c2), custom_call_target="check"
}

%counted (i: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%long (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  %d1 = f32[8]{0} call(%d), to_apply=%inside
  %d2 = f32[8]{0} while(%d1), condition=%checked, body=%once
  ROOT %d3 = f32[8]{0} while(%d2), condition=%counted, body=%kernels
}

%inside (e: f32[8]) -> f32[8] {
  %e = f32[8]{0} parameter(0)
  %e1 = f32[8]{0} negate(%e)
  ROOT %e2 = f32[8]{0} while(%e1), condition=%counted, body=%once, backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %x = f32[8]{0} while(%p), condition=%checked, body=%once
  ROOT %y = f32[8]{0} while(%x), condition=%checked, body=%long
}
"""


def test_loops_in_calls_and_in_loops_are_counted_by_their_length() -> None:
    """The outer loop is the longer of two. Its step is: a call of 1 kernel and 5 rounds of 1; a loop of unknown
    length, which counts once with the 3 kernels of its condition; 7 rounds of 2; and 3 kernels of its own condition."""
    step, loops = Roofline(parsed(LOOPS), H100).step()
    assert step.kernels == (1 + 5 * 1) + (1 + 3) + 7 * 2 + 3
    assert [(loop.trips, loop.round.kernels) for loop in loops] == [(5, 1), (None, 1), (7, 2)]
    assert step.seconds == pytest.approx(step.kernels * 3e-6)


def test_trips_are_known_only_of_loops_that_count_up_to_a_constant() -> None:
    for old, new, trips in (("", "", 7), ("direction=LT", "direction=GT", None), ("constant(7)", "parameter(1)", None)):
        program = parsed(LOOPS.replace(old, new) if old else LOOPS)
        assert program.trips(program.computations["long"].instructions[-1]) == trips


def test_a_text_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        parsed("HloModule nothing")
