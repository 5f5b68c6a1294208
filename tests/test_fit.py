"""Tests the report of memory and time on an accelerator, from the text of a compiled program."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from distill_jax.axes.objective import TrajectoryMatching
from distill_jax.axes.selector import Representative
from distill_jax.cli import explain
from distill_jax.cli.cost import compiler
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.fit import Advice, Memory, memory_of, report
from distill_jax.cli.cost.memory import shapes
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.distill import run_block
from distill_jax.recipes import resolve
from distill_jax.run import with_chunks
from tests.test_roofline_loops import H100, STEPS

ADVICE = Advice("the pool 90.0 GiB, give a smaller --models.size", "--class-chunk 1")


def test_the_report() -> None:
    spec = with_chunks(resolve("acc_dd", "cifar10", ipc=10, shape=(32, 32, 3)).spec, (32, 32, 3), 10, "gpu")
    text = report(H100, spec, Memory(2**30, 2**31), STEPS, 40.0, ADVICE)
    assert "1.0 GiB of data and state, 2.0 GiB of temporaries, 3.8 % of 79.1 GiB: it fits" in text
    assert "32 iterations" in text and "2 kernels and 0.006 ms each" in text and "0.192 ms" in text
    assert "limited by launches" in text and "40,000 steps" in text
    assert f"(--class-chunk {spec.class_chunk} --model-chunk {spec.model_chunk})" in text
    whole = replace(spec, objective=TrajectoryMatching())
    assert "(--model-chunk" in report(H100, whole, Memory(0, 0), STEPS, 40.0, ADVICE), "it ignores --class-chunk"
    # The copy of a megabyte begins an outer iteration, so only one in a hundred steps takes it.
    assert "outer iteration" in text and re.search(r"the run +2,560,400 ", text)
    for args, temporaries, verdict in [
        (2**30, 2**37, "does NOT fit: try --class-chunk 1"),
        (2**37, 2**30, "does NOT fit: the pool 90.0 GiB, give a smaller --models.size"),
        (2**30, 70 * 2**30, "MEM_FRACTION"),
        (0, int(0.96 * H100.memory), "does NOT fit"),
    ]:
        assert verdict in report(H100, spec, Memory(args, temporaries), STEPS, 40.0, ADVICE)
    # 80 % of 3.35 TB/s; 200 of 495 TF/s, and the same share of 989.
    assert "the longest of 3 us, bytes / 2.68 TB/s and FLOP / 200 TF/s (400 in bfloat16)." in text
    (loop,) = (line.split() for line in text.splitlines() if line.startswith("loop of 32 iterations"))
    assert loop[4] == "64" and loop[5:7] == ["128", "KiB"]  # 32 x 2 kernels, each of 2 KiB and an index


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


def test_results_that_reuse_the_memory_of_arguments_count_once() -> None:
    stats = SimpleNamespace(
        argument_size_in_bytes=100, output_size_in_bytes=70, alias_size_in_bytes=60, temp_size_in_bytes=5
    )
    memory = memory_of(SimpleNamespace(memory_analysis=lambda: stats))
    assert memory == (110, 5) and memory.total == 115


def test_the_compiler_ignores_the_flags_meant_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    gpu, tpu = (compiler.environment(DEVICES[name]) for name in ("h100", "v5e"))
    assert (gpu["JAX_PLATFORMS"], tpu["JAX_PLATFORMS"]) == ("cpu,cuda", "cpu")
    assert "--xla_mine" not in gpu["XLA_FLAGS"] and "XLA_FLAGS" not in tpu
    assert gpu["JAX_ENABLE_COMPILATION_CACHE"] == tpu["JAX_ENABLE_COMPILATION_CACHE"] == "false"


@pytest.mark.parametrize(("inner", "selecting", "every"), [(1, 1, 1), (3, 1, 3), (10, 1, 10), (15, 2, 10)])
def test_steps_that_select_cost_more_in_the_report(inner: int, selecting: int, every: int) -> None:
    """A step of the program starts 65 kernels if it selects, else 64."""
    program = STEPS.replace("begin_outer", "select")
    spec = resolve("dm", "digits", ipc=1, shape=(8, 8, 1)).spec
    spec = replace(spec, outer_steps=7, inner_steps=inner, selector=Representative(4, every=10))
    run = re.search(r"the run +([\d,]+) .* (\d+) steps(.*)", report(H100, spec, Memory(0, 0), program, 1.0, ADVICE))
    assert run is not None
    assert run[1].replace(",", "") == str(7 * (65 * selecting + 64 * (inner - selecting)))
    assert run[2] == str(7 * inner)
    assert run[3] == ("" if inner == 1 else f", of which every {every}th selects; the others take 0.192 ms")


def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compiler, "_folders", lambda module: [])
    for device, extra in (("h100", "cuda12"), ("v5e", "tpu")):
        assert explain.main(["dm", "digits", "--device", device]) == 2
        assert f"pip install -e '.[{extra}]'" in capsys.readouterr().err.splitlines()[-1]
    assert explain.main(["dm", "digits", "--device", "h1000"]) == 2
    assert "did you mean h100?" in capsys.readouterr().err
