"""Tests every preset through the runners, as a user starts it."""

import json
from pathlib import Path

import pytest

from distill_jax.checkpoint import check_pool
from distill_jax.cli import ablate, analyse, distill
from distill_jax.cli.distill import Distill
from distill_jax.cli.request import arguments
from distill_jax.cli.session.setup import set_up
from distill_jax.methods import METHODS, PRESETS
from tests.tiny import NET

SHORT = ["--inner-steps", "1", "--repeats", "1", "--protocol.epochs", "1"]
POOLS = {
    "mtt": ["--models.size", "2", "--models.start", "1", "--models.ahead", "1"],
    "datm": ["--models.size", "2", "--models.start", "1", "--models.grows-from", "0", "--models.epochs", "1"],
    "rat_bptt": ["--objective.steps", "2", "--objective.window", "1"],
    **dict.fromkeys(["acc_dd", "dream_acc_dd", "ncfm"], ["--models.size", "2", "--models.epochs", "1"]),
    **dict.fromkeys(["herding", "kcenter", "kmeans", "random_soft", "rded", "cim"], ["--models.epochs", "1"]),
}


@pytest.mark.parametrize("method", PRESETS)
def test_every_spec_can_be_written_as_json(method: str) -> None:
    job = set_up(arguments.request([method, "digits"], Distill))
    assert json.loads(json.dumps(job.describe()))["spec"]["models"]["choice"]
    check_pool(json.loads(json.dumps(job.describe_pool())), job.describe_pool())


@pytest.mark.slow
@pytest.mark.parametrize("method", PRESETS)
def test_distill(method: str, tmp_path: Path) -> None:
    """Start a run, resume it, and resume it again after its end."""
    argv = [method, "digits", *NET, *SHORT, *POOLS.get(method, []), "--baselines", "--workdir", str(tmp_path)]
    steps = 1 if method in METHODS else 0
    assert distill.main([*argv, "--outer-steps", str(steps)]) == 0
    for _ in range(2):
        assert distill.main([*argv, "--outer-steps", str(2 * steps), "--resume"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["method"] == method and result["steps"]["outer"] == 2 * steps
    assert 0 <= result["accuracy"]["mean"] <= 100
    assert (tmp_path / "report.html").exists() == (method != "full"), "full keeps no images to report"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ablate(method: str, tmp_path: Path) -> None:
    argv = [method, "digits", *NET, *SHORT[:2], "--repeats", "1", "--protocol.epochs", "1", *POOLS.get(method, [])]
    argv += ["--outer-steps", "1", "--optimiser.lr", "0.01", "0.1", "--seeds", "1", "--workdir", str(tmp_path)]
    assert ablate.main(argv) == 0
    assert len((tmp_path / "ablation.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_analyse(method: str, tmp_path: Path) -> None:
    argv = [method, "digits", *NET, *POOLS.get(method, []), "--steps", "2", "--images", "20", "--networks", "2"]
    assert analyse.main([*argv, "--late-epochs", "0", "--workdir", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert (found["models"] is None) == (method in ("mtt", "datm", "ncfm"))
