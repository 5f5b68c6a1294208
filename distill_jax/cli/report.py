"""One page about a run that can be sent to a colleague: figures, pictures and configuration in a single HTML file.

python -m experiments.report runs/demo

``distill`` writes ``report.html`` when it ends; this writes it anew, with what ``evaluate`` has found since.
"""

from __future__ import annotations

import base64
import inspect
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from distill_jax.cli import display
from distill_jax.cli.plot import draw_progress
from distill_jax.cli.process import enter
from distill_jax.cli.workdir import DISTILLED, EVALUATION, GRID, METRICS, REPORT, RESULT, read_json, replaced
from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem; font-size: 1.15rem }
table { border-collapse: collapse }
td, th { padding: .25rem 1.2rem .25rem 0; text-align: left; border-bottom: 1px solid #ddd }
td { font-variant-numeric: tabular-nums } img { max-width: 100% }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: .85rem } .faint { color: #666 }
</style>
<h1>$title</h1>
<p class="faint">$subtitle</p>
$body
</html>
""")


@dataclass(frozen=True)
class Report:
    """Write report.html about a finished run: accuracies, images, loss, cost and configuration on one page."""

    workdir: Annotated[Positional[Path], arg(metavar="WORKDIR")]
    """the folder that experiments.distill left"""


def run(argv: list[str]) -> None:
    about = inspect.getdoc(Report)
    path = tyro.cli(Report, args=argv, prog="python -m experiments.report", description=about).workdir
    if read_json(path / RESULT) is None:
        raise RequestError(f"{path} holds no finished run: give the --workdir of experiments.distill")
    write(path)
    print(f"report {path / REPORT}")


def write(path: Path) -> None:
    """Write ``report.html`` about the finished run in ``path``."""
    page = _page(path)
    with replaced(path / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page(path: Path) -> str:
    result, evaluation = read_json(path / RESULT), read_json(path / EVALUATION)
    distilled = DistilledSet.load(path / DISTILLED)
    title = f"{result['method']} on {result['dataset'].rpartition('/')[2]}"
    stored = f"{len(distilled.images)} stored images, {result['ipc']} for each of {distilled.classes} classes"
    sections = [
        _accuracy(result, distilled),
        _section("The images", _picture((path / GRID).read_bytes(), "the distilled images of each class")),
        _progress(path),
        _networks(evaluation, distilled),
        _section("Use them", *_use(distilled)),
        _cost(result),
        _configuration(result["config"]),
    ]
    return PAGE.substitute(
        title=escape(title),
        subtitle=escape(f"{stored}, of {'x'.join(map(str, distilled.shape))}; seed {result['seed']}"),
        body="\n".join(filter(None, sections)),
    )


def _accuracy(result: Mapping[str, Any], distilled: DistilledSet) -> str:
    stored, seen = len(distilled.images), distilled.decoded_count
    images = {"distilled": f"{stored}" if seen == stored else f"{stored}, decoded to {seen}", "random": f"{stored}"}
    names = {"distilled": "these images", "random": "random real images", "full": "all real images"}
    scored = {"distilled": result["accuracy"], **result["baselines"]}
    rows = [
        [names[name], images.get(name, ""), f"{display.plus_minus(accuracy)} %", len(accuracy["per_repeat"])]
        for name, accuracy in scored.items()
        if accuracy is not None
    ]
    protocol = result["config"]["protocol"]["name"]
    note = (
        f"Accuracy on the test images of a {result['net']} trained from scratch by the protocol {protocol}: mean and "
        "standard deviation over networks from different seeds. The test images were used once, after the last epoch."
    )
    return _section(
        "What a network learns from", _table(["", "images", "accuracy", "networks"], rows), _paragraph(note)
    )


def _progress(path: Path) -> str:
    lines = (
        [json.loads(line) for line in (path / METRICS).read_text().splitlines()] if (path / METRICS).exists() else []
    )
    if len(lines) < 2:
        return ""
    picture = io.BytesIO()
    draw_progress(lines).savefig(picture, format="png", dpi=130)
    return _section("While it ran", _picture(picture.getvalue(), "matching loss by inner steps"))


def _networks(evaluation: Mapping[str, Any] | None, distilled: DistilledSet) -> str:
    """What ``evaluate`` found, unless it was about another set."""
    if evaluation is None or evaluation["set"]["hash"] != distilled.card["hash"]:
        return ""
    rows = [
        [name, f"{display.plus_minus(of['accuracy'])} %", display.duration(of["seconds"]["evaluate"])]
        for name, of in evaluation["nets"].items()
    ]
    note = f"Protocol {evaluation['protocol']['name']}, {evaluation['repeats']} networks of each kind."
    return _section(
        "Other networks, trained on the same images", _table(["", "accuracy", "took"], rows), _paragraph(note)
    )


def _use(distilled: DistilledSet) -> Sequence[str]:
    python = (
        "from distill_jax.distilled import DistilledSet\n\n"
        f'images, labels = DistilledSet.load("{DISTILLED}").arrays()  # decoded, normalised, ready to train on'
    )
    export = (
        "python -m experiments.export WORKDIR dd-ranking exported     # writes a PyTorch snippet beside the tensors"
    )
    about = f"{DISTILLED}, content hash {distilled.card['hash']}."
    return f"<pre>{escape(python)}</pre>", f"<pre>{escape(export)}</pre>", _paragraph(about)


def _cost(result: Mapping[str, Any]) -> str:
    steps, where = result["steps"], result["environment"]
    rows = [[phase, display.duration(seconds)] for phase, seconds in result["seconds"].items() if seconds >= 0.05]
    rows += [
        ["steps", f"{steps['outer']} outer x {steps['inner']} inner"],
        ["peak memory", f"{result['peak_bytes'] / 2**30:.2f} GiB"],
        ["device", f"{where['device_count']} x {where['device']}"],
        ["versions", f"jax {where['jax']}, Python {where['python']}, commit {where['commit'] or 'unknown'}"],
    ]
    return _section("What it cost", _table(None, rows))


def _configuration(config: Mapping[str, Any]) -> str:
    text = escape(json.dumps(config, indent=2))
    return _section("Configuration", f"<details><summary>all of it</summary><pre>{text}</pre></details>")


# ------------------------------------------------------------------ HTML


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<h2>{escape(title)}</h2>", *parts])


def _paragraph(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>'


def _table(header: Sequence[str] | None, rows: Iterable[Sequence[Any]]) -> str:
    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    lines = [row(header, "th")] if header else []
    return "\n".join(["<table>", *lines, *(row(cells, "td") for cells in rows), "</table>"])


def _picture(png: bytes, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def main(argv: Sequence[str] | None = None) -> int:
    return enter(run, argv)
