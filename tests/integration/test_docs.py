"""Tests the pages of the documentation: parsers accept every command, and reduced versions of cheap commands run.

Commands that need TensorFlow Datasets, an accelerator or an optional package are only parsed.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tyro
from PIL import Image

from distill_jax import DistilledSet, load, recipes, sweep
from distill_jax.axes.objective import GradientMatching
from distill_jax.check_spec import validate
from distill_jax.cli import distill
from distill_jax.cli.ablation.swept import take_swept
from distill_jax.cli.cost.shapes import Explain
from distill_jax.cli.request import arguments
from distill_jax.cli.tables.entrants import Compare, Entrant
from distill_jax.cli.tables.plan import Reproduce, planned
from distill_jax.recipes import Experiment
from tests.tiny import ROOT

DOCS = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "new_method.md"]
"""tests/integration/test_new_method.py tests the page on user-defined methods"""
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *DOCS]
FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\b(METHOD|DATASET|COMMAND|FORMAT)\b")
PARSED_ONLY = (
    "cifar10",
    "svhn_cropped",
    "imagenet2012",
    "--device",
    "--peer",
    "huggingface",
    "images_best.pt",
    "mnist.npz",
    "reproduce small",
    "mine.toml",
    "hf:",
)
FAST = ("getting_started.md", "files.md")
"""pages whose commands run in the normal suite"""

SMALL = {
    "spec.outer_steps": 1, "spec.inner_steps": 2, "spec.selector.batch": 4, "spec.models.size": 1,
    "spec.models.epochs": 1, "spec.update.images": 16, "spec.net.width": 4, "protocol.epochs": 1,
    "spec.models.augment.strategy": "", "spec.augment.strategy": "", "spec.update.augment.strategy": "",
    "protocol.augment.strategy": "",
}  # fmt: skip
LESS = {
    "distill": "--repeats 1 --baselines", "ablate": "--repeats 1 --seeds 1", "pretrain": "", "explain": "",
    "evaluate": "--repeats 1 --epochs 1", "benchmark": "--shapes tiny --pairs 1",
    "tune": "--seconds 1 --repeats 1", "analyse": "",
    "reproduce": "--seconds 0 --steps 2 --points 1 --seeds 1 --repeats 1 -- --net.width 4 --protocol.epochs 1",
}  # fmt: skip
"""options appended to a command; later options win"""


def commands(text: str) -> list[str]:
    """Return the commands of a page, in fences or within sentences, that call this library."""
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()] + re.findall(r"`(python -m [^`\n]+)`", joined)
    found = (shlex.join(shlex.split(x, comments=True)) for x in lines if x.startswith("python -m experiments."))
    return [line for line in dict.fromkeys(found) if not PLACEHOLDER.search(line)]


def split_command(command: str) -> tuple[ModuleType, list[str]]:
    """Return the module of a command, and its arguments."""
    name, *argv = shlex.split(command.removeprefix("python -m experiments."))
    if "--config" in argv and not Path(argv[argv.index("--config") + 1]).exists():
        argv = [
            *argv[: argv.index("--config")],
            *argv[argv.index("--config") + 2 :],
        ]  # experiments.tune would have written this file
    return importlib.import_module(f"{'benchmarks' if name == 'benchmark' else 'distill_jax.cli'}.{name}"), argv


def parsed(module: ModuleType, argv: list[str]) -> Experiment | None:
    """Parse ``argv`` with the command's own parser, whose options are a dataclass with the command's name."""
    name = module.__name__.rpartition(".")[2]
    elsewhere = {"reproduce": Compare, "explain": Explain}
    options: Any = elsewhere.get(name) or getattr(module, name.title().replace("_", ""))
    swept, argv = take_swept(argv) if name == "ablate" else ({}, argv)
    if issubclass(options, arguments.Common):
        _, _, experiment = arguments.parse(argv, options)
        validate(experiment.spec)
        for path in swept:
            sweep.field_at(experiment.spec, path)
        return experiment
    cut = argv.index("--") if "--" in argv else len(argv)
    if name == "reproduce" and argv[0] != "compare":
        table = tyro.cli(Reproduce, args=argv[:cut])
        if not table.table.endswith(".toml"):
            planned(table, argv[cut + 1 :])
        return None
    found = tyro.cli(options, args=argv[:cut])
    for _, _, line in found.lines if name == "reproduce" else ():
        method, *own = shlex.split(line)
        arguments.parse([method, found.dataset, *argv[cut + 1 :], *own], Entrant)
    return None


def small(experiment: Experiment) -> Experiment:
    """Return ``experiment`` with the fields in SMALL reduced."""
    for path, value in SMALL.items():
        experiment = recipes.replaced(experiment, path.split("."), value)
    return experiment


def shorten(module: ModuleType, argv: list[str]) -> list[str]:
    """Return ``argv`` with options that shorten the command."""
    name = module.__name__.rpartition(".")[2]
    experiment = parsed(module, argv)
    swept = {path.replace("_", "-") for path in take_swept(argv)[0]} if name == "ablate" else set()
    for path, value in SMALL.items() if experiment and name != "explain" else ():
        option = path.removeprefix("spec.").replace("_", "-")
        if option not in swept and recipes.replaced(experiment, path.split("."), value) != experiment:
            argv = [*argv, f"--{option}", str(value)]
    more = LESS.get(name, "") + " --full-epochs 1" * ("dd-ranking" in argv)
    return [*argv, *more.split()]


@pytest.fixture(autouse=True)
def my_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide the module that pages name in place of the reader's own module."""
    module = ModuleType("my_module")
    vars(module)["MyObjective"] = GradientMatching
    monkeypatch.setitem(sys.modules, "my_module", module)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of a reduced ``make demo``."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    assert distill.main(shorten(distill, ["acc_dd", "digits", "--workdir", str(path)])) == 0
    return path


@pytest.fixture
def here(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files that pages assume: runs/demo, photos, and a data.npz of zeros and ones."""
    shutil.copytree(demo, tmp_path / "runs" / "demo")
    data = load("digits", only=["0", "1"])
    arrays = {name: getattr(data, name)[:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "data.npz", **arrays)
    for split in ("train", "test"):
        for i, (x, y) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)):
            path = tmp_path / "photos" / split / str(y) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[..., 0]).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_parsers_accept_every_command(page: Path) -> None:
    for command in commands(page.read_text(encoding="utf-8")):
        try:
            parsed(*split_command(command))
        except (Exception, SystemExit) as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.name in FAST else pytest.mark.slow, id=page.stem) for page in DOCS],
)
def test_the_commands_of_a_page_run(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, names = recipes.resolve, {}
    monkeypatch.setattr(recipes, "resolve", lambda *args, **kwargs: small(resolve(*args, **kwargs)))
    for _, language, text in FENCED.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(text, names)
        for command in commands(text) if language == "sh" else ():
            if not any(word in command for word in PARSED_ONLY):
                with monkeypatch.context() as patched:  # options already reduce the commands
                    patched.setattr(recipes, "resolve", resolve)
                    module, argv = split_command(command)
                    if hasattr(module, "MIN_SECONDS"):
                        patched.setattr(module, "MIN_SECONDS", 0.0)
                    assert module.main(shorten(module, argv)) == 0, command


def test_the_page_on_files_names_every_file_and_field(demo: Path) -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    result, config = (json.loads((demo / name).read_text()) for name in ("result.json", "config.json"))
    card = DistilledSet.load(demo / "distilled.npz").card
    names = {path.name + "/" * path.is_dir() for path in demo.iterdir()} | {*result, *config, *card, *config["data"]}
    names |= {*result["seconds"], *result["steps"], *result["environment"], *result["baselines"]}
    assert not {name for name in names if f"`{name}`" not in page}


def test_extras_and_make_targets_exist() -> None:
    setup, make = ConfigParser(), (ROOT / "Makefile").read_text()
    setup.read(ROOT / "setup.cfg")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        extras = {extra for group in re.findall(r"pip install -e '\.\[([\w,]+)\]'", text) for extra in group.split(",")}
        assert extras <= set(setup["options.extras_require"]), page.name
        for target in re.findall(r"^make (\w+)|`make (\w+)`", text, re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", make, re.MULTILINE), f"{page.name} names make {target}"


@pytest.mark.slow
def test_the_pictures_are_made(tmp_path: Path) -> None:
    make = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["main"]
    make(tmp_path, epochs=1, outer_steps=1, inner_steps=2)
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in (ROOT / "docs" / "pictures").iterdir()}
