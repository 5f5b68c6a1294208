"""The ablation runner: one program, its files, and what it refuses."""

import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from distill_jax import distill, evaluate
from experiments import ablate
from experiments.plot import draw

SMALL = """
    acc_dd digits --seeds 2 --repeats 1 --outer-steps 1 --inner-steps 2 --net.width 4 --net.depth 1 --protocol.epochs 1
    --augment none --protocol.augment.strategy= --update.augment.strategy=
    --selector.batch 4 --update.images 8 --update.batch 8 --models.size 1 --models.epochs 0
"""


def test_one_program_for_all_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    traces = {"distilling": 0, "scoring": 0}

    def counted(phase: str, module: object, name: str) -> None:
        function = getattr(module, name)

        def count(*args, **kwargs):
            traces[phase] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    counted("distilling", distill, "inner_step")
    counted("scoring", evaluate, "train")
    workdir = tmp_path / "run"
    swept = "--held-out --hyper.perturb-max 0 0.09 0.3 --hyper.syn-lr 1e-4"
    argv = [*SMALL.split(), *swept.split(), "--workdir", str(workdir)]
    assert ablate.main(argv) == 0
    assert traces == {"distilling": 1, "scoring": 1}
    with (workdir / "ablation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["perturb_max"], line["seed"]) for line in lines] == [
        (v, s) for v in ("0.0", "0.09", "0.3") for s in "01"
    ]
    assert all(0 <= float(line["accuracy"]) <= 100 and float(line["loss"]) > 0 for line in lines)
    assert (workdir / "ablation.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((workdir / "config.json").read_text())
    assert config["swept"] == {"perturb_max": [0, 0.09, 0.3]} and config["hyper"]["syn_lr"] == 1e-4
    assert config["data"]["withheld"] == 0.1
    assert "hyper.perturb_max: 0 0.09 0.3" in capsys.readouterr().out
    assert ablate.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("acc_dd digits --hyper.perturb-max 0.1", "0 numbers are swept"),
        ("acc_dd digits --hyper.perturb-mx 0 0.1", "did you mean perturb_max"),
        ("acc_dd digits --hyper.syn-lr 1 2 --hyper.model-lr 1 2 --hyper.perturb-max 0 1", "3 numbers are swept"),
        ("idc digits --hyper.perturb-max 0 0.1", "add --models.perturb"),
        ("acc_dd digits --hyper.syn-lr 1 1", "given twice"),
        ("acc_dd digits --hyper.syn-lr 1 2 --seeds 0", "seeds is 0"),
    ],
)
def test_refuses(argv: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workdir = tmp_path / "run"
    assert ablate.main([*argv.split(), "--workdir", str(workdir)]) == 2
    assert said in capsys.readouterr().err
    assert not workdir.exists()


def test_takes_out_what_is_swept():
    argv = ["acc_dd", "--hyper.perturb-max", "0", "1e-1", "digits", "--ipc", "10", "--hyper.model-lr", "0.1"]
    assert ablate.take_swept(argv) == (
        {"perturb_max": [0, 0.1]},
        ["acc_dd", "digits", "--ipc", "10", "--hyper.model-lr", "0.1"],
    )


@pytest.mark.parametrize(
    "swept",
    [
        {"perturb_max": [0.27, 0, 0.03, 0.09]},
        {"syn_lr": [1e-4, 1e-3, 1e-2, 1e-1]},
        {"model_momentum": [0.5, 0.9]},
        {"perturb_max": [0, 0.1], "syn_lr": [1e-4, 1e-3]},
    ],
    ids=["zero on a log axis", "log", "linear", "map"],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_pictures(swept: dict[str, list[float]], seeds: int):
    points = int(np.prod([len(values) for values in swept.values()]))
    with matplotlib.rc_context({"figure.dpi": 40}):
        figure = draw("title", "accuracy", swept, np.linspace(50, 60, points * seeds).reshape(points, seeds))
        figure.draw_without_rendering()
        axes = figure.axes[0]
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert labels == [f"{value:g}" for value in sorted(list(swept.values())[-1])]
