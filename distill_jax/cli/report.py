"""The report of a run for a colleague: figures, pictures and configuration in a single HTML file.

python -m experiments.report runs/demo

``distill`` writes ``report.html`` at its end. This command writes it again, with later scores by ``evaluate``.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, PackageLoader
from tyro.conf import Positional, arg

from distill_jax.cli.output import display
from distill_jax.cli.output.image_grid import draw
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request.parser import invocation, parsed
from distill_jax.cli.session import evaluations
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.workdir import CONFIG, DISTILLED, EVALUATION, GRID, METRICS, REPORT, RESULT, Workdir
from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError


@dataclass(frozen=True)
class Report:
    """Write report.html of a finished run: accuracies, images, loss, cost and configuration on one page."""

    workdir: Annotated[Positional[Path], arg(metavar="WORKDIR")]
    """workdir of experiments.distill"""


def run(argv: list[str]) -> None:
    path = parsed(Report, argv, "report").workdir
    if read_json(path / RESULT) is None:
        mend = "continue it with --resume" if (path / CONFIG).exists() else "give the --workdir of experiments.distill"
        raise RequestError(f"{path} has no finished run: {mend}")
    if not (path / DISTILLED).exists():
        raise RequestError(f"the run in {path} kept no images to report: give the --workdir of another method")
    write(path)
    print(f"report {path / REPORT}")


def write(path: Path) -> None:
    """Write ``report.html`` of the finished run in ``path``."""
    Workdir(path).write_text(REPORT, _page(path))


def _page(path: Path) -> str:
    result = read_json(path / RESULT)
    distilled = DistilledSet.load(path / DISTILLED)
    stored, seen = len(distilled.images), distilled.decoded_count
    names = {"distilled": "these images", "random": "random real images", "full": "all real images, for as many steps"}
    names["random_soft"] = "random real images, labelled by the pool"
    images = {"distilled": f"{stored}" if seen == stored else f"{stored}, decoded to {seen}", "random": f"{stored}"}
    images["random_soft"] = f"{stored}"
    scored = {"distilled": result["accuracy"], **result["baselines"]}
    where = result["environment"]
    environment = Environment(loader=PackageLoader("distill_jax.cli", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"plus_minus": display.plus_minus, "duration": display.duration, "size": display.size}
    return environment.get_template("report.html.j2").render(
        title=f"{result['method']} on {display.last_part(result['dataset'])}",
        shape="x".join(map(str, distilled.shape)),
        accuracies=[(names[name], images.get(name, ""), of) for name, of in scored.items() if of is not None],
        result=result,
        distilled=distilled,
        grid=_embedded(_grid(path, distilled)),
        progress=_progress(path),
        evaluations=_evaluations(path, distilled),
        versions=f"jax {where['jax']}, Python {where['python']}, commit {where['commit'] or 'unknown'}",
        export=" ".join(invocation("export")),
        configuration=json.dumps(result["config"], indent=2),
    )


def _grid(path: Path, distilled: DistilledSet) -> bytes:
    """Return the picture of the images, which is drawn again if it is missing."""
    if (path / GRID).exists():
        return (path / GRID).read_bytes()
    picture = io.BytesIO()
    draw(distilled).save(picture, format="png")
    return picture.getvalue()


def _lines(log: Path) -> list[Any]:
    """Return the lines of ``metrics.jsonl`` up to one that a kill left incomplete."""
    lines = []
    for text in log.read_text().splitlines() if log.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _progress(path: Path) -> str | None:
    """Return the curve of the matching loss as an embedded picture, or None if it has fewer than two points."""
    lines = _lines(path / METRICS)
    if len(lines) < 2:
        return None
    from distill_jax.cli.output.plot import draw_progress  # matplotlib takes half a second to import

    picture = io.BytesIO()
    draw_progress(lines).savefig(picture, format="png", dpi=130)
    return _embedded(picture.getvalue())


def _evaluations(path: Path, distilled: DistilledSet) -> list[Mapping[str, Any]]:
    """Return the evaluations of this set, decoded with the factor in its card."""
    entries, card = evaluations.read(path / EVALUATION, "remove it"), distilled.card
    of_set = [entry for entry in entries if entry["set"]["hash"] == card["hash"]]
    return [entry for entry in of_set if entry["set"].get("factor", card["factor"]) == card["factor"]]


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


main = partial(run_command, run)
