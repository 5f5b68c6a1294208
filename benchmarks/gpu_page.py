"""Measure everything that ``results/gpu.md`` reports, in slices: each call of this command works for some minutes, and
the next call continues where it stopped.

python -m benchmarks.gpu_page npz:cifar10.npz --workdir runs/gpu --page results/gpu.md
python -m benchmarks.gpu_page digits --smoke --workdir runs/rehearsal

The workdir holds all state, so it can be moved to another machine between two calls. The page is rewritten after every
slice. If a slice fails, its last lines of output are recorded and the next slice begins; ``--retry`` repeats failed
slices.
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
from distill_jax.cli.process.run_command import run_command
from distill_jax.types import RequestError

GRACE = 60.0
"""seconds that a slice has to save its state after SIGINT"""
MIN_SECONDS = 30.0
"""remaining seconds below which no further slice begins"""
LINES = 12
"""number of last output lines recorded when a slice fails"""

DONE, FAILED, STOPPED = "done", "failed", "stopped"


@dataclass(frozen=True)
class Page:
    """Measure the figures of results/gpu.md for some minutes, and write the page. Call again to continue."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET")]
    """CIFAR-10, as npz:PATH or cifar10"""
    workdir: Path
    """folder that keeps all state between two calls"""
    page: Path | None = None
    """the page to write (default: gpu.md in the workdir)"""
    minutes: float = 8
    """duration of this call; it may take one minute more to stop"""
    device: str | None = None
    """device, such as h100, whose estimates by ``explain`` the page sets beside the measurements"""
    retry: FlagCreatePairsOff[bool] = False
    """repeat failed slices"""
    smoke: FlagCreatePairsOff[bool] = False
    """rehearse all slices at tiny sizes, on any machine"""


class Slice(NamedTuple):
    """One command whose results the page reports."""

    name: str
    command: tuple[str, ...]
    """the words after ``python -m``"""
    figures: Callable[[str], dict[str, Any]]
    """reads the figures from the standard output of the finished command"""
    folder: Path | None = None
    """workdir of a run that can be resumed; None if the command starts from the beginning every time"""


def run(argv: list[str]) -> None:
    options = tyro.cli(Page, args=argv, prog="python -m benchmarks.gpu_page")
    if options.minutes <= 0:
        raise RequestError(f"minutes is {options.minutes:g}: it must be above 0")
    write_page = partial(report, rehearsal=options.smoke)
    unfinished = advance(
        slices(options), options.workdir, options.page, 60 * options.minutes, options.retry, write_page
    )
    if unfinished:
        print(f"unfinished slices: {', '.join(unfinished)}. Give the same command again to continue")
    else:
        print("all slices are finished")


def slices(options: Page) -> list[Slice]:
    """Return the slices of the page, the quick and most important ones first."""
    benchmark = ("experiments.benchmark", "step", "--json")
    size = ("--shapes", "tiny", "--pairs", "1") if options.smoke else ("--shapes", "cifar10")
    peer = ("--peer", "torch") if importlib.util.find_spec("torch") else ()
    recipe = () if options.dataset == "cifar10" else ("--recipe", "digits" if options.smoke else "cifar10")
    small = SMOKE if options.smoke else ()
    result = [
        Slice("device", ("benchmarks.gpu_page_device",), json.loads),
        Slice("float32", (*benchmark, *size, *peer), json.loads),
        Slice("bfloat16", (*benchmark, *size, *peer, "--dtype", "bfloat16"), json.loads),
        Slice("float32 grouped", (*benchmark, *size, "--filters", "grouped"), json.loads),
        Slice("bfloat16 grouped", (*benchmark, *size, "--dtype", "bfloat16", "--filters", "grouped"), json.loads),
    ]
    for ipc in (1,) if options.smoke else (10, 1, 50):
        words = ("acc_dd", options.dataset, *recipe, "--ipc", str(ipc), *small)
        if options.device:
            command = ("experiments.explain", *words, "--device", options.device)
            result.append(Slice(f"explain {ipc}", command, lambda output: {"said": output}))
        folder = options.workdir / f"ipc{ipc}"
        command = ("experiments.distill", *words, "--workdir", str(folder))
        result.append(Slice(f"ipc {ipc}", command, partial(_result, folder), folder))
    return result


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
    """Run the slices ``todo`` for at most ``seconds``, plus the time to stop, and return the names of the unfinished
    ones."""
    workdir.mkdir(parents=True, exist_ok=True)
    store, end = workdir / "slices.json", time.monotonic() + seconds
    state: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}

    def status(item: Slice) -> str | None:
        return state.get(item.name, {}).get("status")

    closed = (DONE,) if retry else (DONE, FAILED)
    for item in [item for item in todo if status(item) not in closed]:
        if (remaining := end - time.monotonic()) < min(MIN_SECONDS, seconds / 2):
            break
        print(f"{item.name}: python -m {' '.join(item.command)}", flush=True)
        outcome = attempt(item, remaining)
        if outcome["status"] == STOPPED and item.folder is None and remaining > 0.9 * seconds:
            outcome["status"] = FAILED  # it had a whole call and cannot resume, so no later call will finish it
        before = state.get(item.name, {}).get("seconds", 0.0) if item.folder else 0.0
        state[item.name] = {**outcome, "seconds": round(before + outcome["seconds"], 1)}
        _write(store, json.dumps(state, indent=1))
        _write(page or workdir / "gpu.md", text(state))
        print(f"{item.name}: {outcome['status']} after {outcome['seconds']:.0f} s", flush=True)
    return [item.name for item in todo if status(item) not in (DONE, FAILED)]


def attempt(item: Slice, seconds: float) -> dict[str, Any]:
    """Run one command for at most ``seconds``, and return its status, command, seconds, and figures or last lines."""
    words = [sys.executable, "-m", *item.command]
    if item.folder is not None and item.folder.exists():
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
    outcome: dict[str, Any] = {"command": " ".join(("python -m", *item.command))}
    outcome["seconds"] = time.monotonic() - began
    try:
        if process.returncode == 0:
            return {**outcome, "status": DONE, "figures": item.figures(out)}
        problem = ""
    except (ValueError, KeyError, OSError) as error:
        problem = f"\nits result could not be read: {error!r}"
    outcome["last"] = [line[:200] for line in (out + err + problem).strip().splitlines()[-LINES:]]
    if not stopped:
        return {**outcome, "status": FAILED}
    outcome["last"].append(f"stopped after {seconds:.0f} s")
    steps = {"figures": {"steps": _steps(item.folder)}} if item.folder is not None else {}
    return {**outcome, "status": STOPPED, **steps}


def _result(folder: Path, _: str) -> dict[str, Any]:
    """Read the figures of a finished run."""
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in ("accuracy", "seconds", "steps", "peak_bytes", "environment")}


def _steps(folder: Path) -> int:
    """Return the number of outer steps that a stopped run has taken."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


main = partial(run_command, run)


if __name__ == "__main__":
    sys.exit(main())
