"""Tests ``explain --device NAME --devices N``: what N accelerators send to each other, and how many there can be."""

import pytest

from distill_jax import mesh
from distill_jax.cli import explain
from distill_jax.cli.cost.devices import BETWEEN, DEVICES
from distill_jax.cli.cost.fit import Advice, Memory, report
from distill_jax.cli.cost.hlo import parsed
from distill_jax.cli.cost.roofline import Roofline
from distill_jax.recipes import resolve

H100, V5E = DEVICES["h100"], DEVICES["v5e"]

PROGRAM = """HloModule m

ENTRY %main (p0: f32[2,1000]) -> f32[1000] {{
  %p0 = f32[2,1000]{{1,0}} parameter(0)
  %begun = {begun}
  ROOT %r = {ended}
}}
"""


def exchanged(begun: str, ended: str = "f32[1000]{0} negate-done(%begun)", count: int = 8) -> Roofline:
    return Roofline(parsed(PROGRAM.format(begun=begun, ended=ended)), H100, count=count)


@pytest.mark.parametrize(
    ("line", "results", "factor"),
    [
        ("f32[2,1000]{1,0} all-reduce(%p0), to_apply=%add", 2000, 2 * 7 / 8),
        ("f32[2,1000]{1,0} all-reduce-start(%p0), to_apply=%add", 2000, 2 * 7 / 8),
        ("(f32[2,1000]{1,0}, f32[16,1000]{1,0}) all-gather-start(%p0), dimensions={0}", 16_000, 7 / 8),
        ("((f32[2,1000], f32[2]), (f32[16,1000], f32[16])) all-gather-start(%p0, %p0)", 16_016, 7 / 8),
        ("f32[1,1000]{1,0} reduce-scatter(%p0), dimensions={0}", 1000, 7),
        ("f32[2,1000]{1,0} all-to-all(%p0), dimensions={0}", 2000, 7 / 8),
        ("(f32[2,1000]{1,0}, f32[2,1000]{1,0}) collective-permute-start(%p0)", 2000, 1),
    ],
)
def test_bytes_that_a_device_sends(line: str, results: int, factor: float) -> None:
    work, _ = exchanged(line).step()
    assert work.kernels == 1 and work.bytes == 0 and work.sent == 4 * results * factor
    assert work.seconds == work.exchange == max(H100.launch, work.sent / 450e9)


def test_other_machines_are_farther_away() -> None:
    big = "f32[2,10000000]{1,0} all-reduce(%p0), to_apply=%add"
    near, far = (exchanged(big, count=count).step()[0] for count in (8, 64))
    assert near.exchange == pytest.approx(2 * 7 / 8 * 80e6 / 450e9)
    assert far.exchange == pytest.approx(2 * 63 / 64 * 80e6 / BETWEEN) and far.limit == "exchange"


def test_a_report_on_several_devices_says_what_they_send() -> None:
    spec = resolve("dm", "digits", ipc=1, shape=(8, 8, 1)).spec
    text = PROGRAM.format(begun="f32[2,1000]{1,0} all-reduce(%p0), to_apply=%add", ended="f32[1000]{0} negate(%begun)")
    said = report(H100, spec, Memory(1, 1), text, 1.0, Advice("", ""), 8)
    assert "on 8 x NVIDIA H100" in said and "launches 50 %, traffic 0 %, arithmetic 0 %, exchange 50 %" in said
    assert "It sends 13.7 KiB per step to the others at 450 GB/s" in said
    assert "sends" not in report(H100, spec, Memory(1, 1), text, 1.0, Advice("", ""))


def test_numbers_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert [H100.topology(count) for count in (1, 8, 64)] == ["1x1x1", "1x1x8", "1x8x8"]
    assert [V5E.topology(count) for count in (1, 4, 8)] == ["v5e:2x2", "v5e:2x2", "v5e:2x4"]
    for name, said in (("h100", "give at most 8, or a multiple of 8"), ("v5e", "slices of TPU v5e have 1, 4, 8, 16")):
        assert explain.main(["acc_dd", "digits", "--device", name, "--devices", "12"]) == 2
        assert f"devices is 12: {said}" in capsys.readouterr().err


def test_a_mesh_over_devices_of_others() -> None:
    with mesh.over(("a", "b", "c")):
        assert mesh.size() == 3 and mesh.all_devices().devices.tolist() == ["a", "b", "c"]
        with mesh.on_one_device():
            assert mesh.size() == 1
    assert mesh.size() == 1
