"""Tests the costs of small hand-written programs in the form in which the compilers of a GPU and a TPU print them."""

import re
from dataclasses import replace

import jax
import pytest

from distill_jax.cli import explain
from distill_jax.cli.cost import compiler
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.fit import Advice, Memory, report
from distill_jax.cli.cost.hlo import Buffer, parsed
from distill_jax.cli.cost.memory import shapes
from distill_jax.cli.cost.roofline import Roofline
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.distill import run_block
from distill_jax.recipes import resolve
from distill_jax.run import with_chunks

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


def one(line: str, *parameters: str, device: str = "h100"):
    """Return the work of a program with one instruction over ``parameters``, named %p0, %p1, ..."""
    inputs = [f"  %p{i} = {shape} parameter({i})" for i, shape in enumerate(parameters)]
    text = "\n".join(["HloModule one, is_scheduled=true", "", "ENTRY %main () -> f32[] {", *inputs, f"  {line}", "}"])
    return Roofline(parsed(text), DEVICES[device]).step()[0]


def test_all_three_library_convolutions() -> None:
    image, kernel, out = "f32[64,8,8,16]{3,2,1,0}", "f32[32,3,3,16]{3,2,1,0}", "f32[64,8,8,32]{3,2,1,0}"
    common = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="
    flops = 2 * 64 * 8 * 8 * 32 * 9 * 16
    for operands, made, target in [
        ((image, kernel), out, "__cudnn$convBiasActivationForward"),
        ((out, kernel), image, "__cudnn$convBackwardInput"),
        ((image, out), kernel, "__cudnn$convBackwardFilter"),
    ]:
        work = one(f'ROOT %c = ({made}, u8[4096]{{0}}) custom-call(%p0, %p1), {common}"{target}"', *operands)
        assert work.flops == flops
        assert work.bytes == 4 * (64 * 64 * 16 + 32 * 9 * 16 + 64 * 64 * 32)  # without the scratch


def test_matrix_products() -> None:
    config = (
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],'
        '"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}'
    )
    operands = ("bf16[7,30,40]{2,1,0}", "bf16[7,40,50]{2,1,0}")
    target = 'custom_call_target="__cublas$lt$matmul"'
    call = f"ROOT %g = (f32[7,30,50]{{2,1,0}}, s8[4096]{{0}}) custom-call(%p0, %p1), {target}, {config}"
    assert one(call, *operands).flops == 2 * 7 * 30 * 40 * 50
    dot = "ROOT %d = f32[30,50]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    assert one(dot, "f32[30,40]{1,0}", "f32[40,50]{1,0}").flops == 2 * 30 * 40 * 50


def test_bfloat16_has_its_own_rate() -> None:
    line = "ROOT %d = f32[4096,4096]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    wide, narrow = (one(line, *2 * [f"{dtype}[4096,4096]{{1,0}}"]) for dtype in ("f32", "bf16"))
    assert wide.limit == narrow.limit == "arithmetic"
    assert wide.seconds == pytest.approx(2 * 4096**3 / 200e12) and narrow.seconds < 0.51 * wide.seconds


def test_a_tpu_keeps_some_arrays_on_the_chip_and_counts_padding() -> None:
    layout = "{3,2,1,0:T(8,128)S(1)}"
    assert parsed(f"ENTRY %m () -> f32[] {{\n  ROOT %p = f32[2,3]{layout} parameter(0)\n}}").computations["m"].by_name[
        "p"
    ].buffers == (Buffer("f32", (2, 3), on_chip=True),)
    # 5 products of [30, 40] and [40, 50], as a convolution with a window of 5 of which one tap lies inside.
    line = (
        "ROOT %c = f32[5,30,50]{2,1,0:T(8,128)} convolution(%p0, %p1), "
        "window={size=5 stride=4 pad=0_0 lhs_dilate=5}, dim_labels=0bf_0io->0bf"
    )
    work = one(line, "f32[5,30,40]{2,1,0:T(8,128)}", "f32[5,40,50]{2,1,0:T(8,128)}", device="v5e")
    assert work.flops == 2 * 5 * 30 * 40 * 50
    same = "ROOT %c = f32[1,4,4,1]{3,2,1,0} convolution(%p0, %p1), window={size=3x3 pad=1_1x1_1}, "
    work = one(same + "dim_labels=b01f_01io->b01f", "f32[1,4,4,1]{3,2,1,0}", "f32[3,3,1,1]{3,2,1,0}", device="v5e")
    assert work.flops == 2 * 10 * 10  # 10 of 12 taps a side lie inside


def test_a_text_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        parsed("HloModule nothing")


def test_the_report() -> None:
    spec = with_chunks(resolve("acc_dd", "cifar10", ipc=10, shape=(32, 32, 3)).spec, (32, 32, 3), 10, "gpu")
    advice = Advice("the pool 90.0 GiB, give a smaller --models.size", "--class-chunk 1")
    text = report(H100, spec, Memory(2**30, 2**31), STEPS, 40.0, advice)
    assert "1.0 GiB of data and state, 2.0 GiB of temporaries, 3.8 % of 79.1 GiB: it fits" in text
    assert "32 iterations" in text and "2 kernels and 0.006 ms each" in text and "0.192 ms" in text
    assert "limited by launches" in text and "40,000 steps" in text
    # The copy of a megabyte begins an outer iteration, so only one in a hundred steps takes it.
    assert "outer iteration" in text and re.search(r"the run +2,560,400 ", text)
    for args, temporaries, verdict in [
        (2**30, 2**37, "does NOT fit: try --class-chunk 1"),
        (2**37, 2**30, "does NOT fit: the pool 90.0 GiB, give a smaller --models.size"),
        (2**30, 70 * 2**30, "MEM_FRACTION"),
    ]:
        assert verdict in report(H100, spec, Memory(args, temporaries), STEPS, 40.0, advice)


@pytest.mark.parametrize(
    ("method", "arguments", "temporaries"),
    [
        ("acc_dd", "--resident-images (now 100)", "--class-chunk 1, --net.dtype bfloat16, a smaller --selector.batch"),
        ("mtt", "give a smaller --models.size", "--net.dtype bfloat16, a smaller --objective.batch"),
    ],
)
def test_advice_names_options_that_the_program_heeds(method: str, arguments: str, temporaries: str) -> None:
    spec = resolve(method, "cifar10", ipc=1, shape=(32, 32, 3)).spec
    problem, state = shapes(replace(spec, class_chunk=10), real_shapes(1_000, (32, 32, 3), [100] * 10))
    if method == "acc_dd":
        problem = replace(problem, pool=None)
    advice = Advice.of(problem, state)
    assert arguments in advice.arguments and advice.temporaries.startswith(temporaries)


def test_the_program_names_the_parts_that_not_every_step_takes() -> None:
    spec = resolve("dream", "cifar10", ipc=1, shape=(32, 32, 3)).spec
    problem, state = shapes(spec, real_shapes(5_000, (32, 32, 3), [500] * 10))
    text = run_block.lower(problem, state, jax.ShapeDtypeStruct((), "int32")).as_text(debug_info=True)
    assert "/begin_outer/cond" in text and "/select/cond" in text


def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compiler, "_folders", lambda module: [])
    for device, extra in (("h100", "cuda12"), ("v5e", "tpu")):
        assert explain.main(["dm", "digits", "--device", device]) == 2
        assert f"pip install -e '.[{extra}]'" in capsys.readouterr().err.splitlines()[-1]
    assert explain.main(["dm", "digits", "--device", "h1000"]) == 2
    assert "did you mean h100?" in capsys.readouterr().err
