"""Tests the report, a page without external files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

from distill_jax.axes.parameterisation import Pixels
from distill_jax.cli import report
from distill_jax.cli.output.image_grid import _font, _layout, _strips
from distill_jax.distilled import DistilledSet
from distill_jax.types import Normaliser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Parses the page as a browser would. Raises if tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == ["html"] or self.open == []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Return the workdir of a finished run on a data set with an awkward name."""
    images = jnp.asarray(np.random.default_rng(0).random((2, 1, 8, 8, 1), np.float32))
    flat = jnp.full(1, 0.5)
    about = {"method": "acc_dd", "dataset": "npz:<b>&.npz"}
    made = DistilledSet.of(Pixels(), images, ("<script>", "b"), Normaliser(flat, flat), about)
    made.save(tmp_path / "distilled.npz")
    Image.new("L", (4, 4)).save(tmp_path / "grid.png")
    accuracy = {"mean": 91.25, "std": 1.5, "per_repeat": [89.75, 92.75]}
    result = {
        "method": "acc_dd", "dataset": "npz:<b>&.npz", "ipc": 1, "factor": 1, "net": "convnet", "seed": 0,
        "accuracy": accuracy, "baselines": {"random": {**accuracy, "mean": 75.5}, "full": None},
        "seconds": {"pretrain": 1.0, "compile": 2.0, "distill": 3.0, "evaluate": 0.0, "baselines": 4.0},
        "steps": {"outer": 2, "inner": 5}, "peak_bytes": 2**30,
        "environment": {"device": "cpu", "device_count": 1, "jax": "0", "python": "3", "commit": None},
        "config": {"protocol": {"name": "idc"}},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    lines = [{"outer": n, "step": 5 * n, "loss": 1 / n, "seconds": n, "held_out_accuracy": 50.0 + n} for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def written(workdir: Path) -> Page:
    assert report.main([str(workdir)]) == 0
    return Page((workdir / "report.html").read_text(encoding="utf-8"))


def test_the_report_has_the_results_and_needs_no_other_file(workdir: Path) -> None:
    page = written(workdir)
    text = " ".join(page.text)
    for words in ("91.25 ± 1.50 %", "75.50 ± 1.50 %", "acc_dd on npz:<b>&.npz", "1.00 GiB", "2 outer x 5 inner"):
        assert words in text
    assert len(page.sources) == 2, "the images, and the curves"
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"<(script|b)\b", (workdir / "report.html").read_text(encoding="utf-8"))


def test_a_report_of_incomplete_files(workdir: Path) -> None:
    """A kill can cut the last line of the log short, and the picture is drawn again if it is missing."""
    with (workdir / "metrics.jsonl").open("a") as log:
        log.write('{"outer": 3, "st')
    (workdir / "grid.png").unlink()
    assert len(written(workdir).sources) == 2


def test_the_report_shows_only_evaluations_of_its_set(workdir: Path) -> None:
    made = DistilledSet.load(workdir / "distilled.npz")
    accuracy = {"mean": 66.5, "std": 0.25, "per_repeat": [66.25, 66.75]}
    found = {
        "schema": 1,
        "set": {"hash": made.card["hash"]},
        "protocol": {"name": "dsa"},
        "repeats": 2,
        "nets": {"resnet10": {"accuracy": accuracy, "seconds": {"evaluate": 61.0, "compile": 1.0}}},
    }
    (workdir / "evaluation.json").write_text(json.dumps(found))
    assert {"resnet10", "66.50 ± 0.25 %", "1 min 1 s"} <= set(written(workdir).text)
    (workdir / "evaluation.json").write_text(json.dumps({**found, "set": {"hash": "another"}}))
    assert "resnet10" not in written(workdir).text
    otherwise = {"hash": made.card["hash"], "factor": made.card["factor"] + 1}
    (workdir / "evaluation.json").write_text(json.dumps({**found, "set": otherwise}))
    assert "resnet10" not in written(workdir).text, "images decoded with another factor are other images"
    # Evaluations accumulate; DD-Ranking's scores are shown where there are some.
    scores = {name: {"mean": mean, "std": 0.0} for name, mean in (("lrs", 0.271), ("ars", 0.314))}
    ranked = {**found["nets"]["resnet10"], "ranking": {"scores": scores}}
    other = {**found, "protocol": {"name": "dd-ranking"}, "nets": {"vit": ranked}}
    (workdir / "evaluation.json").write_text(json.dumps({"schema": 2, "evaluations": [found, other]}))
    assert {"resnet10", "vit", "LRS", "0.271", "0.314"} <= set(written(workdir).text)


def test_a_report_needs_a_finished_run(tmp_path: Path, capsys) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "has no finished run: give the --workdir" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("classes", "ipc", "side", "shown"),
    [(10, 1, 8, 64), (10, 1, 224, 224), (10, 10, 224, 112), (10, 1, 512, 256), (2, 1, 96, 96), (60, 10, 96, 32)],
)
def test_large_images_are_not_shrunk_to_thumbnails(classes: int, ipc: int, side: int, shown: int) -> None:
    """They keep their size or half of it, depending on the width of the page."""
    images = np.zeros((classes, ipc, side, side, 1), np.float32)
    flat = jnp.full(1, 0.5)
    made = DistilledSet.of(Pixels(), images, tuple(map(str, range(classes))), Normaliser(flat, flat), {})  # type: ignore
    assert _layout(_strips(made))[0] == shown


def test_class_names_may_have_accents() -> None:
    def drawn(letter: str) -> bytes:
        page = Image.new("L", (20, 20))
        ImageDraw.Draw(page).text((2, 2), letter, fill=255, font=_font(13))
        return page.tobytes()

    unknown, *shown = map(drawn, "\U000fffffÜéßñД")
    assert unknown not in shown
