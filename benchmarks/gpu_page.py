"""Everything that ``results/gpu.md`` says, measured in slices: each call of this command works for some minutes,
and the next goes on where it ended.

python -m benchmarks.gpu_page npz:cifar10.npz --workdir runs/gpu --page results/gpu.md
python -m benchmarks.gpu_page digits --smoke --workdir runs/rehearsal

The workdir holds all state: it can be packed, carried to another machine and unpacked there between two calls. The page
is written anew after every slice. One that fails is recorded with its last lines, and the rest goes on; ``--retry`` has
another try.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from benchmarks.gpu_report import report
from distill_jax.cli.process import run_command
from distill_jax.types import RequestError

GRACE = 60.0
"""seconds that a slice has to save after it was told to stop"""
LEAST = 30.0
"""seconds left below which no other slice begins"""
LINES = 12
"""of a slice's output that are kept when it fails"""

DONE, FAILED, STOPPED = "done", "failed", "stopped"


@dataclass(frozen=True)
class Page:
    """Measure what results/gpu.md reports, for some minutes, and write the page; call again to go on."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET")]
    """CIFAR-10, as npz:PATH or cifar10"""
    workdir: Path
    """where everything is kept between two calls"""
    page: Path | None = None
    """the page to write (default: gpu.md in the workdir)"""
    minutes: float = 8
    """that this call may take, and one more to stop in"""
    device: str | None = None
    """ask ``explain`` about this device, such as h100, and compare"""
    retry: FlagCreatePairsOff[bool] = False
    """try again what failed"""
    smoke: FlagCreatePairsOff[bool] = False
    """rehearse everything at tiny sizes, on any machine"""


class Slice(NamedTuple):
    """One command of the page."""

    name: str
    command: tuple[str, ...]
    """the words after ``python -m``"""
    figures: Callable[[str], dict[str, Any]]
    """what is kept of a finished command's standard output"""
    folder: Path | None = None
    """the workdir of a run, which goes on where it was stopped"""


def run(argv: list[str]) -> None:
    options = tyro.cli(Page, args=argv, prog="python -m benchmarks.gpu_page")
    if options.minutes <= 0:
        raise RequestError(f"minutes is {options.minutes:g}: it must be above 0")
    made = partial(report, rehearsal=options.smoke)
    unfinished = advance(slices(options), options.workdir, options.page, 60 * options.minutes, options.retry, made)
    if unfinished:
        print(f"to go on, give the same command again; open: {', '.join(unfinished)}")
    else:
        print("all is done")


def slices(options: Page) -> list[Slice]:
    """What the page needs, the quick and most wanted first."""
    benchmark = ("experiments.benchmark", "step", "--json")
    size = ("--shapes", "tiny", "--pairs", "1") if options.smoke else ("--shapes", "cifar10")
    peer = ("--peer", "torch") if importlib.util.find_spec("torch") else ()
    recipe = () if options.dataset == "cifar10" else ("--recipe", "digits" if options.smoke else "cifar10")
    small = SMOKE if options.smoke else ()
    made = [
        Slice("device", ("benchmarks.gpu_page_device",), json.loads),
        Slice("float32", (*benchmark, *size, *peer), json.loads),
        Slice("bfloat16", (*benchmark, *size, *peer, "--dtype", "bfloat16"), json.loads),
        Slice("float32 grouped", (*benchmark, *size, "--filters", "grouped"), json.loads),
        Slice("bfloat16 grouped", (*benchmark, *size, "--dtype", "bfloat16", "--filters", "grouped"), json.loads),
    ]
    for ipc in (1,) if options.smoke else (10, 1, 50):
        named = ("acc_dd", options.dataset, *recipe, "--ipc", str(ipc), *small)
        if options.device:
            asked = ("experiments.explain", *named, "--device", options.device)
            made.append(Slice(f"explain {ipc}", asked, lambda said: {"said": said}))
        folder = options.workdir / f"ipc{ipc}"
        command = ("experiments.distill", *named, "--workdir", str(folder))
        made.append(Slice(f"ipc {ipc}", command, partial(_result, folder), folder))
    return made


SMOKE = (
    *("--net.width", "4", "--net.depth", "1", "--models.size", "1", "--models.epochs", "1", "--update.images", "64"),
    *("--outer-steps", "4", "--inner-steps", "2", "--save-every", "1", "--repeats", "1", "--protocol.epochs", "2"),
    *("--baselines", "random"),
)


def advance(
    todo: Sequence[Slice],
    workdir: Path,
    page: Path | None,
    seconds: float,
    retry: bool = False,
    text: Callable[[dict[str, Any]], str] = report,
) -> list[str]:
    """Work on ``todo`` for ``seconds`` at most, and some more to stop in; the names of what is still open."""
    workdir.mkdir(parents=True, exist_ok=True)
    store, end = workdir / "slices.json", time.monotonic() + seconds
    state: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}

    def status(each: Slice) -> str | None:
        return state.get(each.name, {}).get("status")

    closed = (DONE,) if retry else (DONE, FAILED)
    for each in [each for each in todo if status(each) not in closed]:
        if (left := end - time.monotonic()) < min(LEAST, seconds / 2):
            break
        print(f"{each.name}: python -m {' '.join(each.command)}", flush=True)
        outcome = attempt(each, left)
        if outcome["status"] == STOPPED and each.folder is None and left > 0.9 * seconds:
            outcome["status"] = FAILED  # no call will ever be long enough
        before = state.get(each.name, {}).get("seconds", 0.0) if each.folder else 0.0
        state[each.name] = {**outcome, "seconds": round(before + outcome["seconds"], 1)}
        _write(store, json.dumps(state, indent=1))
        _write(page or workdir / "gpu.md", text(state))
        print(f"{each.name}: {outcome['status']} after {outcome['seconds']:.0f} s", flush=True)
    return [each.name for each in todo if status(each) not in (DONE, FAILED)]


def attempt(each: Slice, seconds: float) -> dict[str, Any]:
    """One command for ``seconds`` at most: its status, command, seconds, and figures or last lines."""
    words = [sys.executable, "-m", *each.command]
    if each.folder is not None and each.folder.exists():
        words.append("--resume")
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stopped = False
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    made: dict[str, Any] = {"command": " ".join(("python -m", *each.command))}
    made["seconds"] = time.monotonic() - began
    try:
        if process.returncode == 0:
            return {**made, "status": DONE, "figures": each.figures(out)}
        problem = ""
    except (ValueError, KeyError, OSError) as error:
        problem = f"\nits result could not be read: {error!r}"
    made["last"] = [line[:200] for line in (out + err + problem).strip().splitlines()[-LINES:]]
    if not stopped:
        return {**made, "status": FAILED}
    made["last"].append(f"stopped after {seconds:.0f} s")
    steps = {"figures": {"steps": _steps(each.folder)}} if each.folder is not None else {}
    return {**made, "status": STOPPED, **steps}


def _result(folder: Path, _: str) -> dict[str, Any]:
    """Of a finished run."""
    result = json.loads((folder / "result.json").read_text())
    kept = ("accuracy", "seconds", "steps", "peak_bytes", "environment")
    return {name: result[name] for name in kept}


def _steps(folder: Path) -> int:
    """How many outer steps a run that was stopped has taken."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


main = partial(run_command, run)


if __name__ == "__main__":
    sys.exit(main())
