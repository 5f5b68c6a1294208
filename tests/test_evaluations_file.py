"""Tests how ``evaluation.json`` keeps the scores of several evaluations."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distill_jax.cli.session import evaluations
from distill_jax.types import RequestError

ENTRY: dict[str, Any] = {
    "set": {"hash": "a"}, "dataset": "digits", "protocol": {"epochs": 3}, "repeats": 2, "seed": 0, "jax": "1",
}  # fmt: skip


def test_networks_are_added_to_the_evaluation_that_they_belong_to(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    evaluations.add(path, {**ENTRY, "nets": {"mlp": 1, "convnet": 2}})
    evaluations.add(path, {**ENTRY, "seed": 1, "nets": {"mlp": 3}})
    evaluations.add(path, {**ENTRY, "jax": "2", "nets": {"lenet": 4, "mlp": 5}})
    other, merged = evaluations.read(path, "")
    assert other["seed"] == 1 and other["nets"] == {"mlp": 3}
    assert merged["jax"] == "2" and merged["nets"] == {"mlp": 5, "convnet": 2, "lenet": 4}
    assert evaluations.networks(path, {**ENTRY, "seed": 1}) == {"mlp": 3}


def test_evaluations_that_end_at_the_same_time_all_stay(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: evaluations.add(path, {**ENTRY, "seed": seed, "nets": {"mlp": 1}}), range(64)))
    assert {entry["seed"] for entry in evaluations.read(path, "")} == set(range(64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("set", {"hash": "b"}),
        ("dataset", "mnist"),
        ("protocol", {"epochs": 4}),
        ("repeats", 3),
        ("seed", 1),
        ("full_epochs", 9),
    ],
)
def test_scores_of_other_settings_are_not_taken(field: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    evaluations.add(path, {**ENTRY, "nets": {"mlp": 1}})
    assert evaluations.networks(path, {**ENTRY, "jax": "another"}) == {"mlp": 1}
    assert evaluations.networks(path, {**ENTRY, field: value}) == {}


def test_a_file_of_an_earlier_version_is_a_single_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    assert evaluations.read(path, "") == []
    path.write_text(json.dumps({"schema": 1, **ENTRY, "nets": {"mlp": 1}}))
    assert evaluations.read(path, "") == [{**ENTRY, "nets": {"mlp": 1}}]
    for content in ('{"images": 3}', "[]", '"text"'):
        path.write_text(content)
        with pytest.raises(RequestError, match="was not written by an evaluation: remove it"):
            evaluations.read(path, "remove it")
