"""Tests the costs of single kernels in the form in which the compilers of a GPU and a TPU print them."""

import pytest

from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.hlo import Buffer, parsed
from distill_jax.cli.cost.roofline import Roofline, Work

H100 = DEVICES["h100"]


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
    wide = same.replace("pad=1_1x1_1", "pad=2_2x2_2 rhs_dilate=2x2") + "dim_labels=b01f_01io->b01f"
    work = one(wide, "f32[1,4,4,1]{3,2,1,0}", "f32[3,3,1,1]{3,2,1,0}", device="v5e")
    assert work.flops == 2 * 8 * 8  # 2 + 4 + 2 of 12


ROWS, INDEX = "f32[1000,256]{1,0}", "s32[]"
ROW = 1024  # bytes


@pytest.mark.parametrize(
    ("line", "parameters", "nbytes"),
    [
        ("f32[10,256]{1,0} slice(%p0), slice={[0:10], [0:256]}", [ROWS], 2 * 10 * ROW),
        ("f32[5,256]{1,0} gather(%p0, %p1), offset_dims={1}", [ROWS, "s32[5,1]{1,0}"], 2 * 5 * ROW),
        ("f32[3,256]{1,0} dynamic-slice(%p0, %p1, %p1)", [ROWS, INDEX], 2 * 3 * ROW),
        (f"{ROWS} dynamic-update-slice(%p0, %p1, %p2, %p2)", [ROWS, "f32[2,256]{1,0}", INDEX], 2 * 2 * ROW),
        (f"{ROWS} scatter(%p0, %p1, %p2), to_apply=%add", [ROWS, "s32[4,1]{1,0}", "f32[4,256]{1,0}"], 2 * 4 * ROW),
        (f"{ROWS} add(%p0, %p1)", [ROWS, ROWS], 3 * 1000 * ROW),
        ("f32[<=9,256]{1,0} negate(%p0)", ["f32[<=9,256]{1,0}"], 2 * 9 * ROW),  # at most 9 rows
        (f"{ROWS} negate(%p0)", ["bf16[1000,256]{1,0}"], 1000 * ROW // 2 + 1000 * ROW),
        ("pred[1000,256]{1,0} is-finite(%p0)", [ROWS], 1000 * ROW + 1000 * ROW // 4),
        (f"(f32[256]{{0}}, {ROWS}) sort(%p0, %p1)", ["f32[256]{0}", ROWS], 2 * (ROW + 1000 * ROW)),
    ],
)
def test_a_kernel_reads_and_writes_only_the_part_that_it_needs(line: str, parameters: list[str], nbytes: int) -> None:
    work = one(f"ROOT %r = {line}", *parameters)
    assert work[:3] == (1, nbytes, 0)


def test_asynchronous_transfers_take_time_but_no_kernel() -> None:
    copied = one(f"ROOT %r = ({ROWS}, {ROWS}, u32[]{{:S(2)}}) copy-start(%p0)", ROWS)
    assert copied[:3] == (0, 2 * 1000 * ROW, 0)
    assert copied.seconds == copied.traffic == pytest.approx(2 * 1000 * ROW / (0.8 * H100.bandwidth))
    assert one(f"ROOT %r = {ROWS} copy-done(%p0)", f"({ROWS}, {ROWS}, u32[])") == Work()
    # A TPU brings a slice onto the chip: it is read from main memory unless its source is on the chip too.
    chip = "f32[10,256]{1,0:T(8,128)S(1)}"
    for layout, nbytes in (("{1,0:T(8,128)}", 10 * ROW), ("{1,0:T(8,128)S(1)}", 0)):
        source = f"f32[1000,256]{layout}"
        line = f"ROOT %r = (({source}), {chip}, s32[]{{:T(128)}}) slice-start(%p0), slice={{[0:10], [0:256]}}"
        assert one(line, source, device="v5e")[:3] == (0, nbytes, 0)


def fused(parameters: list[str], *body: str) -> Work:
    """Return the work of a fusion with these lines over ``parameters``, named %p0, %p1, ..."""
    inside = [f"  %p{i} = {shape} parameter({i})" for i, shape in enumerate(parameters)]
    root = body[-1].removeprefix("ROOT %r = ").partition(") ")[0] + ")" if "= (" in body[-1] else body[-1].split()[3]
    call = f"ROOT %f = {root} fusion({', '.join(f'%p{i}' for i in range(len(parameters)))}), kind=kLoop, calls=%inner"
    inner, outer = ("\n".join([*inside, *(f"  {line}" for line in lines)]) for lines in (body, [call]))
    text = f"HloModule f\n\n%inner () -> f32[] {{\n{inner}\n}}\n\nENTRY %main () -> f32[] {{\n{outer}\n}}"
    return Roofline(parsed(text), H100).step()[0]


def test_a_fusion_reads_what_its_instructions_use() -> None:
    ten = "f32[10,256]{1,0}"
    # Through a view of the same memory, only the slice is read.
    view, slice_ = f"%v = {ROWS} bitcast(%p0)", f"ROOT %r = {ten} slice(%v), slice={{[0:10], [0:256]}}"
    assert fused([ROWS], view, slice_).bytes == 2 * 10 * ROW
    # Two slices that overlap read each row once.
    most = "f32[600,256]{1,0}"
    two = [f"%{name} = {most} slice(%p0), slice={{[{at}:{at + 600}], [0:256]}}" for name, at in (("a", 0), ("b", 400))]
    assert fused([ROWS], *two, f"ROOT %r = {most} add(%a, %b)").bytes == (1000 + 600) * ROW
    # A slice beside another use of the whole reads the whole, once.
    both = [f"%n = {ROWS} negate(%p0)", f"%s = {ten} slice(%p0), slice={{[0:10], [0:256]}}"]
    assert fused([ROWS], *both, f"ROOT %r = ({ROWS}, {ten}) tuple(%n, %s)").bytes == (1000 + 1000 + 10) * ROW
    # A parameter that is not used is not read.
    assert fused([ROWS, ten], f"ROOT %r = {ten} negate(%p1)").bytes == 2 * 10 * ROW


def test_a_fusion_that_updates_in_place_writes_only_the_new_rows() -> None:
    ten = "f32[10,256]{1,0}"
    update = f"{ROWS} dynamic-update-slice(%p0, %p1, %p2, %p2)"
    assert fused([ROWS, ten, INDEX], f"ROOT %r = {update}").bytes == 2 * 10 * ROW + 4
    pair = [f"%u = {update}", f"%n = {ten} negate(%p1)", f"ROOT %r = ({ROWS}, {ten}) tuple(%u, %n)"]
    assert fused([ROWS, ten, INDEX], *pair).bytes == 3 * 10 * ROW + 4
    scattered = f"ROOT %r = {ROWS} scatter(%p0, %p1, %p2), to_apply=%add"
    assert fused([ROWS, "s32[10,1]{1,0}", ten], scattered).bytes == 2 * 10 * ROW + 40
    # An array that is made inside the fusion is written as a whole.
    fresh = [f"%z = {ROWS} negate(%p0)", f"ROOT %r = {ROWS} dynamic-update-slice(%z, %p1, %p2, %p2)"]
    assert fused([ROWS, ten, INDEX], *fresh).bytes == (1000 + 10 + 1000) * ROW + 4


def test_the_matrix_products_of_a_fusion_add_up() -> None:
    square = "bf16[64,64]{1,0}"
    dot = "dot(%{}, %p1), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"
    work = fused([square, square], f"%a = {square} {dot.format('p0')}", f"ROOT %r = {square} {dot.format('a')}")
    assert work[:3] == (1, 3 * 64 * 64 * 2, 2 * 2 * 64**3)
