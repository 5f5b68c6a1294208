"""Tests the analysis runner: its files, the data it must not use, resuming, and the requests it rejects."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill_jax import analysis
from distill_jax.axes.selector import RandomBatch
from distill_jax.cli import analyse
from distill_jax.cli.evidence import phases
from distill_jax.cli.session import resume
from distill_jax.data import Dataset, load
from distill_jax.types import choice

LINE = """
    acc_dd digits --net.width 4 --net.depth 1 --models.size 2 --models.epochs 1 --augment none
    --update.images 64 --update.augment.strategy= --models.augment.strategy= --protocol.augment.strategy=
    --steps 3 --samples 8 --images 20 --networks 3 --late-epochs 1
"""
SWEEP = "--pretraining-epochs 1 --seeds 1 --repeats 1 --outer-steps 1 --inner-steps 1 --protocol.epochs 1"


class Killed(BaseException):
    pass


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
        ("acc_dd digits --ipc 30 --images 20", "ipc is 30"),
        ("idc digits --pool somewhere", "uses no pool"),
        ("idc digits --pretraining-epochs 0 1", "add --models early-stage"),
        ("acc_dd digits --pretraining-epochs 1 1", "repeated value"),
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
