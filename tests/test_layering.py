"""Tests the layers of the code: no module imports from a higher layer, and the library neither prints nor writes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    "pytrees", "types", "platform", "hosts", "contracts", "tree", "mesh", "micro_batches", "data", "nets", "draws",
    "augment", "augment_photos", "schedules", "train", "train_many", "axes", "spec", "check_own", "check_spec", "sets",
    "distill", "analysis", "distilled", "check_data", "join", "teachers", "run", "evaluation", "sweep", "halving",
    "ranking", "formats", "checkpoint", "methods", "recipes", "published", "cli",
]  # fmt: skip
"""the modules and packages of ``distill_jax``; each imports only from itself and from earlier ones"""

CLI_ORDER = [
    "process", "output", "request", "cost", "session", "ablation", "tuning", "evidence", "COMMANDS", "tables",
    "reproduce", "main",
]  # fmt: skip
"""the folders of ``distill_jax.cli``, and where its commands stand among them"""

PACKAGES = ["distill_jax", "benchmarks", "experiments"]
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
CLI = [path for path in FILES if path.is_relative_to(ROOT / "distill_jax" / "cli")]
LIBRARY = [path for path in FILES if path.relative_to(ROOT).parts[0] == "distill_jax" and "cli" not in path.parts]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> tuple[str, ...]:
    """Return ('distill_jax', 'nets', 'conv') for distill_jax/nets/conv.py, and the package for its ``__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Return the dotted names that a file imports, at any place, as tuples. ``from a import b`` gives ('a', 'b')."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)


def rank(name: tuple[str, ...]) -> tuple[int, int]:
    """Return (package, place within distill_jax)."""
    package = PACKAGES.index(name[0])
    return package, ORDER.index(name[1]) if package == 0 and len(name) > 1 and name[1] in ORDER else -1


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_is_imported_from_above(path: Path) -> None:
    mine = module(path)
    if mine == ("distill_jax",):
        return  # the public names, which are imported when they are asked for
    for name in imports(path):
        if name[0] in PACKAGES and name[:2] != mine[:2]:
            assert rank(name) <= rank(mine), f"{named(path)} imports {'.'.join(name)}, which stands above it"


@pytest.mark.parametrize("path", CLI, ids=named)
def test_no_folder_of_cli_imports_from_a_later_one(path: Path) -> None:
    def place(name: tuple[str, ...]) -> int:
        return CLI_ORDER.index(name[2] if name[2] in CLI_ORDER else "COMMANDS")

    mine = module(path)
    for name in imports(path):
        if name[:2] == ("distill_jax", "cli") and len(name) > 2 and len(mine) > 2:
            assert place(name) <= place(mine), f"{named(path)} imports {'.'.join(name)}, which stands above it"


def test_every_module_has_its_place() -> None:
    there = {module(path)[1] for path in FILES if path.is_relative_to(ROOT / "distill_jax") and len(module(path)) > 1}
    assert there <= set(ORDER), "give the new module its place in ORDER"


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_the_library_leaves_terminal_and_files_alone(path: Path) -> None:
    roots = {name[0] for name in imports(path)}
    assert not roots & {"argparse", "tyro", "tqdm", "sys", "matplotlib"}
    called = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not called & {"print", "input"}
    if module(path)[1:2] not in [("data",), ("checkpoint",), ("distilled",), ("formats",), ("published",)]:
        assert not called & {"open", "read_text", "read_bytes", "write_text", "write_bytes", "save", "savez", "load"}


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_only_nets_know_flax(path: Path) -> None:
    if module(path)[1:2] != ("nets",):
        assert "flax" not in {name[0] for name in imports(path)}
