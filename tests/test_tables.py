"""Tests the published tables: their figures, and that every cell is a valid request."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from distill_jax.cli.distill import Distill
from distill_jax.cli.request import arguments
from distill_jax.cli.tables.plan import Reproduce, planned
from distill_jax.published.tables import TABLES, Table, table
from distill_jax.recipes import resolve
from distill_jax.types import RequestError

PUBLISHED: Mapping[tuple[str, str, str], tuple[float | None, ...]] = {
    ("cifar10", "cifar10", "dc"): (28.3, 44.9, 53.9),
    ("cifar10", "cifar10", "mtt"): (46.3, 65.3, 71.6),
    ("cifar10", "cifar10", "idc"): (50.6, 67.5, 74.5),
    ("cifar10", "cifar10", "acc_dd"): (49.2, 67.1, 73.8),
    ("cifar10", "cifar10", "acc_dd Ours10"): (48.5, 66.5, 73.1),
    ("cifar10", "cifar10", "dream"): (51.1, 69.4, 74.8),
    ("cifar10", "cifar10", "ncfm"): (None, 65.6, 74.2),
    ("cifar100", "cifar100", "acc_dd"): (29.8, 45.6, 52.6),
    ("cifar100", "cifar100", "acc_dd Ours20"): (29.1, 44.1, 52.1),
    ("cifar100", "cifar100", "cafe"): (12.9, 27.8, 37.9),
    ("mnist_family", "mnist", "idc"): (94.2, 98.4),
    ("mnist_family", "svhn_cropped", "idc"): (68.5, 87.5),
    ("mnist_family", "fashion_mnist", "acc_dd"): (None, None),
    ("tiny", "tiny", "random_soft"): (7.6, 27.2, 35.6),
    ("imagenet10", "imagenet2012", "acc_dd"): (74.6,),
}
"""figures of the papers: (table, data set, row) -> percent at each ipc"""


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {name: table(name) for name in TABLES}


@pytest.mark.parametrize("row", PUBLISHED, ids=" ".join)
def test_figures_are_the_published_ones(row: tuple[str, str, str], tables: dict[str, Table]) -> None:
    name, dataset, method = row
    cells = [cell for cell in tables[name].cells if (cell.dataset, cell.name) == (dataset, method)]
    assert tuple(cell.published for cell in cells) == PUBLISHED[row]
    assert [cell.ipc for cell in cells] == ([10] if name == "imagenet10" else [1, 10, 50][: len(cells)])


def test_data_are_whitened_where_the_papers_whiten(tables: dict[str, Table]) -> None:
    whitened = {(cell.name, cell.ipc) for cell in tables["cifar10"].cells if cell.whitened}
    assert whitened == {("mtt", 1), ("mtt", 10)} | {
        *(("datm", n) for n in (1, 10, 50, 500, 1000)), *(("rat_bptt", n) for n in (1, 10, 50)),
        *(("random_soft", n) for n in (1, 10, 50)),  # the sample scripts of the release have --zca only for CIFAR-10
    }  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_can_be_resolved_without_data(name: str, tables: dict[str, Table]) -> None:
    """Resolves method, recipe and ipc of each cell, and the whole command of one cell per row."""
    for cell in tables[name].cells:
        assert resolve(cell.method, cell.recipe, ipc=cell.ipc).spec.ipc == cell.ipc
    rows = {(cell.dataset, cell.name): cell.key for cell in tables[name].cells}
    plan = planned(Reproduce(name, cells=tuple(f"{key}/" for key in rows.values())), [])
    outcomes = plan.outcomes()
    assert {*rows.values()} <= outcomes.keys()
    for key, outcome in outcomes.items():
        assert outcome.protocol.endswith("epochs") and outcome.words[0] in key
    for of in tables[name].accelerations:
        for method in (of.slow, of.fast):
            assert arguments.parse([*method.split(), *plan.words(of)], Distill)[1] == of.recipe


def test_a_budget_scales_the_outer_steps_of_the_table(tables: dict[str, Table]) -> None:
    options = Reproduce(
        "cifar10", budget=0.1, cells=("acc_dd-cifar10-ipc1/", "Ours10-cifar10-ipc1/", "random-cifar10-ipc1/")
    )
    steps = {
        key: arguments.parse(outcome.words, Distill)[2].spec.outer_steps
        for key, outcome in planned(options, []).outcomes().items()
    }
    assert steps["acc_dd-cifar10-ipc1"] == 40 and steps["acc_dd-Ours10-cifar10-ipc1"] == 20
    assert steps["random-cifar10-ipc1"] == 0, "a method without steps keeps none"
    assert "--outer-steps" not in planned(replace(options, budget=1.0), []).outcomes()["acc_dd-cifar10-ipc1"].words


def test_data_can_be_in_other_places(tables: dict[str, Table]) -> None:
    cells = ("idc-cifar10-ipc1/", "random_soft-cifar10-ipc10/", "mtt-cifar10-ipc10/", "mtt-cifar10-ipc50/")
    options = Reproduce("cifar10", data=("cifar10=npz:mine.npz",), cells=cells)
    words = {key: outcome.words[:4] for key, outcome in planned(options, []).outcomes().items()}
    assert words["idc-cifar10-ipc1"] == ["idc", "npz:mine.npz", "--recipe", "cifar10"]
    assert words["random_soft-cifar10-ipc10"][1] == "zca:npz:mine.npz"
    assert words["mtt-cifar10-ipc10"][1] == "zca:npz:mine.npz" and words["mtt-cifar10-ipc50"][1] == "npz:mine.npz"


OWN = "title = 'x'\n[[data]]\nname = 'digits'\n"
ACCELERATION = "[[acceleration]]\ndata = 'digits'\ntarget = 90.0\nsteps = 4\n"
FASTER = f"{OWN}rows = [{{method = 'dm', ipc = [1]}}]\n{ACCELERATION}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 3 =", "cannot be read"),
        ("[[data]]\nname = 'digits'\nrows = []", "lacks title"),
        ("title = 'x'", "has no rows"),
        ("title = 'x'\n[[data]]\nname = 'digits'\nrows = [{ipc = [1]}]", "lacks method"),
        ("title = 'x'\n[[data]]\nname = 'digits'\nrows = [{method = 'dm', ipcs = [1]}]", "it has the unknown key ipcs"),
        ("title = 'x'\n[[data]]\nname = 'digits'\nrows = [{method = 'dm', ipc = [1]}, {method = 'dm', ipc = [1]}]",
         "dm-digits-ipc1 twice"),
        (f"{OWN}rows = [{{method = 'dm'}}, {{method = 'idc', ipc = [1]}}]", "the row dm has no number of images"),
        (f"{OWN}rows = [{{method = 'dm', name = 5, ipc = [1]}}]", "name is 5: write a text"),
        (f"{OWN}recipe = 5\nrows = [{{method = 'dm', ipc = [1]}}]", "recipe is 5: write a text"),
        (f"{FASTER}slow = 'idc'\nfast = 'acc_dd'\npoints = 0", "points is 0: write a whole number, at least 1"),
        (f"{FASTER}slow = 'idc'\nfast = 'acc_dd'\npoints = 2.5", "points is 2.5: write a whole number"),
        (f"{FASTER}slow = 'idc'\nfast = 'idc --live 2'\npoints = 1", "of different names"),
        (f"{FASTER}slow = 'idc'\nfast = ''\npoints = 1", "need a method each"),
        (f"{FASTER}slow = 'idc'\nfast = \"dm '\"\npoints = 1", "No closing quotation"),
        (f"{FASTER}slow = 'idc'\nfast = 'dm'\npoints = 1\n{ACCELERATION}slow = 'idc'\nfast = 'acc_dd'\npoints = 1",
         "acceleration-digits-ipc1 twice"),
    ],
)  # fmt: skip
def test_an_invalid_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(RequestError, match=said):
        table(str(tmp_path / "own.toml"))


def test_a_table_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes("title = 'Größe'".encode("latin-1"))
    with pytest.raises(RequestError, match="save it as UTF-8"):
        table(str(tmp_path / "own.toml"))


@pytest.mark.parametrize("option", ["--ipc 5", "--ipc=5", "--seed 1", "--repeats 1", "--workdir runs/x", "--resume"])
def test_a_row_cannot_set_what_the_table_sets(option: str, tmp_path: Path) -> None:
    """Otherwise the figure of another size would stand in the cell, or the option would do nothing."""
    (tmp_path / "own.toml").write_text(f"{OWN}rows = [{{method = 'dm {option}', name = 'mine', ipc = [1]}}]")
    plan = planned(Reproduce(str(tmp_path / "own.toml")), [])
    with pytest.raises(RequestError, match=f"{option[:5]}.* cannot be an option of the row mine"):
        plan.outcomes()


def test_an_acceleration_can_compare_two_versions_of_a_method(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f"{FASTER}slow = 'idc'\nfast = 'pair: idc --live 2'\npoints = 1")
    of = table(str(tmp_path / "own.toml")).accelerations[0]
    assert of.names == ("idc", "pair")
    assert of.methods == [("idc", ["idc"]), ("pair", ["idc", "--live", "2"])]


def test_the_example_in_the_documentation_is_a_table(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "papers.md").read_text()
    (tmp_path / "mine.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    made = table(str(tmp_path / "mine.toml"))
    assert [(cell.key, cell.published) for cell in made.cells] == [
        ("dm-digits-ipc1", 80.0), ("dm-digits-ipc10", 92.0), ("short-digits-ipc1", None)
    ]  # fmt: skip
    plan = planned(Reproduce(str(tmp_path / "mine.toml")), [])
    assert len(plan.outcomes()) == 3 and len(plan.gains()) == 1


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(RequestError, match="did you mean cifar10"):
        table("cifr10")
    with pytest.raises(RequestError, match="cannot read the table nowhere.toml"):
        table("nowhere.toml")
