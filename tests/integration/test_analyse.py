"""Tests the analysis runner: its files, the data it must not use, resuming, and the requests it rejects."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.lines import Line2D

from distill_jax import analysis
from distill_jax.axes.selector import RandomBatch
from distill_jax.cli import analyse
from distill_jax.cli.evidence import phases
from distill_jax.cli.evidence.picture import draw
from distill_jax.cli.evidence.sentences import sentences
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.session import resume
from distill_jax.data import Dataset, load
from distill_jax.recipes import resolve
from distill_jax.types import Model, choice
from tests import toy
from tests.kills import Killed

LINE = """
    acc_dd digits --net.width 4 --net.depth 1 --models.size 2 --models.epochs 1 --augment none
    --update.images 64 --update.augment.strategy= --models.augment.strategy= --protocol.augment.strategy=
    --steps 3 --samples 8 --images 20 --networks 3 --late-epochs 1
"""
SWEEP = "--pretraining-epochs 1 --seeds 1 --repeats 1 --outer-steps 1 --inner-steps 1 --protocol.epochs 1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    read = []
    with pytest.MonkeyPatch.context() as patched:
        own = Dataset.test_arrays
        patched.setattr(Dataset, "test_arrays", lambda self: read.append(self.x_test) or own(self))
        assert analyse.main([*LINE.split(), *SWEEP.split(), "--workdir", str(path)]) == 0
    test = {image.tobytes() for image in load("digits").x_test}
    assert len(read) == 1 and not any(image.tobytes() in test for images in read for image in images)
    return path


def figures(path: Path) -> dict:
    return json.loads((path / "analysis.json").read_text())


def test_files_of_an_analysis(whole: Path) -> None:
    result = figures(whole)
    assert (result["samples"], result["steps"], result["images"]) == (8, 3, [20, 20])
    distances, norms = result["batches"]["distances"], result["batches"]["norms"]
    for name in ("random", "representative"):
        for measure in ("mean", "cover"):
            of = np.asarray(distances[name][measure])
            assert of.shape == (3, 10) and np.all(of > 0)
        assert np.asarray(norms["selected"][name]).shape == (10, 8)
    assert np.asarray(norms["by_distance"]).shape == (10, 10)
    np.testing.assert_allclose(np.mean(norms["by_distance"], axis=1), norms["class"], rtol=1e-5)  # float32 means
    kinds = result["models"]
    assert list(kinds) == ["random", "early-stage", "early-stage, one perturbed", "late, 1 epochs"]
    assert [of["models"] for of in kinds.values()] == [3, 2, 3, 3]
    assert all(-1 <= of["cosine"]["mean"] <= 1.00001 and of["length"]["mean"] > 0 for of in kinds.values())
    assert kinds["early-stage"]["interval"] is None and len(kinds["random"]["interval"]) == 2
    assert kinds["early-stage, one perturbed"]["cosine"]["mean"] > kinds["random"]["cosine"]["mean"]
    assert result["pretraining"]["epochs"] == [1] and np.asarray(result["pretraining"]["accuracy"]).shape == (1, 1)
    text = (whole / "analysis.md").read_text()
    assert "is nearer in" in text and "After 1 epochs of pretraining" in text and "nan" not in text
    assert (whole / "analysis.png").read_bytes().startswith(b"\x89PNG")
    assert not (whole / "pool-members").exists()


def test_a_folder_with_a_finished_analysis(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, before = [*LINE.split(), *SWEEP.split(), "--workdir", str(whole)], figures(whole)
    assert analyse.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert analyse.main([*argv, "--resume", "--repeats", "2"]) == 2
    assert "repeats was 1, now it is 2" in capsys.readouterr().err
    assert analyse.main([*argv, "--resume"]) == 0
    assert "the gradient norm of an image is" in capsys.readouterr().out and figures(whole) == before


def test_a_killed_analysis_resumes(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv, steps, own = [*LINE.split(), *SWEEP.split(), "--workdir", str(tmp_path / "part")], [], analysis.walk_on

    def walk_on(problem, selectors, walk, first, count):
        if len(steps) == 1:
            steps.append(None)
            raise Killed
        steps.append(first)
        return own(problem, selectors, walk, first, count)

    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(analysis, "walk_on", walk_on)
    with pytest.raises(Killed):
        analyse.main(argv)
    with monkeypatch.context() as patched:
        patched.setattr(phases, "models", lambda job: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            analyse.main([*argv, "--resume"])
    count = len(steps)
    assert steps[:3] == [0, None, 1], "the first step was kept"
    assert analyse.main([*argv, "--resume"]) == 0
    assert len(steps) == count, "the batches were kept"
    part, expected = figures(tmp_path / "part"), figures(whole)
    del part["environment"], expected["environment"]  # the commit may change while the tests run
    assert part == expected
    for name in ("analysis.md", "analysis.png"):
        assert (tmp_path / "part" / name).read_bytes() == (whole / name).read_bytes()


@choice
class Mine(RandomBatch):
    """A user-defined selector."""

    batch: int = 4


MTT = """
    mtt digits --net.width 4 --net.depth 1 --models.size 1 --models.start 1 --models.ahead 1 --steps 1 --images 20
    --models.augment.strategy=
"""


def test_targets_and_a_user_defined_selector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trajectory matching uses no real images and needs targets, but batches can still be compared."""
    assert analyse.main([*MTT.split(), "--selector", f"{__name__}:Mine", "--workdir", str(tmp_path)]) == 0
    result = figures(tmp_path)
    assert result["models"] is None and "needs models with targets" in capsys.readouterr().out
    assert list(result["batches"]["distances"]) == ["random", "representative", f"{__name__}:Mine"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("random digits", "takes no steps"),
        ("acc_dd digits --steps 0", "steps is 0"),
        ("acc_dd digits --networks 1", "networks is 1"),
        ("acc_dd digits --samples 500", "the analysis uses 131 images of class 8"),
        ("acc_dd digits --samples 50 --images 20", "the analysis uses 20 images of class 0"),
        ("acc_dd digits --ipc 30 --images 20", "images is 20: give at least 30 (--ipc)"),
        ("idc digits --pool somewhere", "uses no pool"),
        ("idc digits --pretraining-epochs 0 1", "add --models early-stage"),
        ("acc_dd digits --pretraining-epochs 1 1", "repeated value"),
        ("acc_dd digits --pretraining-epochs", "--pretraining-epochs has no value"),
        ("acc_dd digits --pretraining-epochs -1 1", "models.epochs is -1"),
        ("acc_dd digits --classes 0:5", "leave out --classes"),
        ("acc_dd digits --resume --overwrite", "give one of them"),
    ],
)
def test_wrong_requests(line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "run"
    assert analyse.main([*line.split(), "--workdir", str(workdir)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not workdir.exists()


# ------------------------------------------------------------------ the figures

MEASURED: dict = {
    "samples": 2,
    "steps": 2,
    "batches": {
        "distances": {  # [steps][classes]
            "random": {"mean": [[1.0, 3.0], [2.0, 4.0]], "cover": [[8.0, 6.0], [8.0, 6.0]]},
            "representative": {"mean": [[1.0, 3.5], [1.0, 4.5]], "cover": [[7.0, 5.0], [7.0, 3.0]]},
        },
        "norms": {  # [classes][tenths] and [classes][images of the batch]
            "class": [2.0, 4.0],
            "by_distance": [[1.0, 3.0], [4.0, 8.0]],
            "selected": {"random": [[2.0, 4.0], [4.0, 4.0]], "representative": [[1.0, 1.0], [2.0, 4.0]]},
        },
    },
    "models": {
        "random": {
            "models": 2,
            "cosine": {"mean": 0.125, "std": None, "per_repeat": [0.125]},
            "interval": None,
            "length": {"mean": 12.5, "std": 0.5, "per_repeat": [12.0, 13.0]},
        }
    },
    "pretraining": {"epochs": [0, 4], "accuracy": [[50.0], [60.0, 62.0, 64.0]]},
}
"""an analysis of two classes, whose figures can be computed by hand"""


def test_the_sentences_state_the_figures() -> None:
    lines = sentences(MEASURED).splitlines()
    assert [line[:2] for line in lines] == ["- "] * 7
    # Relative norms of the two classes: 1/2 and 4/4, 3/2 and 8/4; batches: 3/2 and 4/4, 1/2 and 3/4.
    assert "is 0.750 ± 0.354 in the tenth nearest to the centre and 1.750 ± 0.354 in the farthest" in lines[0]
    assert "in a batch of 2: random 1.250 ± 0.354, representative 0.625 ± 0.177 (" in lines[0]
    assert "a network after 2 steps" in lines[0]
    # Means over the steps: 1.5 and 3.5 against 1 and 4; 8 and 6 against 7 and 4.
    assert "mean of its class: random 2.500 ± 1.414, representative 2.500 ± 2.121 (" in lines[1]
    assert "representative is nearer in 1 of 2 classes" in lines[1]
    assert "image in the batch: random 7.000 ± 1.414, representative 5.500 ± 2.121 (" in lines[2]
    assert "representative is nearer in 2 of 2 classes" in lines[2]
    assert lines[3] == "- Cosine of the gradients of the same images under two models: random 0.125 (2 models)."
    assert lines[4] == "- Length of these gradients: random 12.5."
    assert lines[5] == "- After 0 epochs of pretraining: 50.00 % of held-out images (seeds)."
    # Student's t of two degrees of freedom: 62 plus or minus 4.303 x 2 / sqrt(3).
    assert lines[6].endswith("62.00 ± 2.00 % of held-out images (seeds) (95 %: 57.0 to 67.0).")


PRETRAINED = {"epochs": [0, 4], "accuracy": [[50.0, 52.0], [60.0, 62.0]]}


def drawn(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata(), float)


def test_the_picture_shows_the_figures() -> None:
    norms, means, covers, models, pretraining = draw("title", {**MEASURED, "pretraining": PRETRAINED}).axes
    np.testing.assert_allclose(drawn(norms.lines[0]), [0.75, 1.75])
    assert [line.get_label() for line in norms.lines] == ["all images", "random batch", "representative batch"]
    assert [drawn(line)[0] for line in norms.lines[1:]] == [1.25, 0.625]
    for axes, expected in ((means, ([2, 3], [2.25, 2.75])), (covers, ([7, 7], [6, 5]))):
        assert [line.get_label() for line in axes.lines] == ["random", "representative"]
        for line, of in zip(axes.lines, expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2])
            np.testing.assert_allclose(drawn(line), of)
    assert means.get_title("left").startswith("Mean of 2 images") and covers.get_title("left").startswith("From an")
    assert [label.get_text() for label in models.get_xticklabels()] == ["random"]
    np.testing.assert_array_equal(pretraining.lines[0].get_xdata(), [0, 0, 4, 4])


def test_norms_belong_to_the_images_that_they_are_listed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 0 has 9 images and class 1 has 7. The norm of each image is its number, and the later images of a class
    are nearer to its centre."""
    data = toy.data()
    assert data.counts.tolist() == [9, 7]
    seen = analysis.Distances(*(start + jnp.arange(8.0).reshape(2, 2, 2) for start in (0, 10)))  # [S, T, C]
    rows = (np.array([[0, 8], [0, 6]]), np.array([[2, 1], [3, 3]]))  # within each class
    walk = SimpleNamespace(model=None, rows=rows, seen=seen)
    monkeypatch.setattr(phases, "_walked", lambda inputs: walk)
    monkeypatch.setattr(analysis, "gradient_norms", lambda *_: jnp.arange(16.0))
    monkeypatch.setattr(analysis, "centre_distances", lambda *_: -jnp.arange(16.0))
    inputs: Any = SimpleNamespace(
        problem=SimpleNamespace(net=None, data=data), selectors={"random": None, "representative": None}
    )
    found = phases.batches(inputs)
    assert found["distances"] == {
        "random": {"mean": [[0, 1], [2, 3]], "cover": [[10, 11], [12, 13]]},
        "representative": {"mean": [[4, 5], [6, 7]], "cover": [[14, 15], [16, 17]]},
    }
    assert found["norms"] == {
        "class": [4, 12],
        # As many parts as the smaller class has images, nearest first: the larger class has two parts of two images.
        "by_distance": [[7.5, 5.5, 4, 3, 2, 1, 0], [15, 14, 13, 12, 11, 10, 9]],
        "selected": {"random": [[0, 8], [9, 15]], "representative": [[2, 1], [12, 12]]},
    }


def test_lengths_and_cosines_of_gradients_are_means_over_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_two_models = iter([[[3.0, 4.0], [0.0, 1.0]], [[3.0, 4.0], [2.0, 0.0]]])  # [C][E]
    kind = Model(np.zeros((2, 1)), {})
    monkeypatch.setattr(analysis, "matching_gradient", lambda *_: jnp.asarray(next(of_two_models)))
    monkeypatch.setattr(phases, "_kinds", lambda _: {"two": kind, "a pool of one": jax.tree.map(lambda a: a[:1], kind)})
    monkeypatch.setattr(phases, "init_state", lambda _: SimpleNamespace(synthetic=None))
    monkeypatch.setattr(phases, "draw_distinct", lambda *_: None)
    inputs: Any = SimpleNamespace(
        setup=SimpleNamespace(spec=resolve("dm", "digits").spec, keys=SimpleNamespace(score=jax.random.key(0))),
        problem=SimpleNamespace(data=None),
        selectors={"random": RandomBatch(3)},
        interrupts=Interrupts(),
    )
    found = phases.models(inputs)
    assert found is not None and list(found) == ["two"] and found["two"]["models"] == 2
    np.testing.assert_allclose(found["two"]["length"]["per_repeat"], [(5 + 1) / 2, (5 + 2) / 2], rtol=1e-6)
    assert found["two"]["cosine"]["mean"] == pytest.approx((1 + 0) / 2)
