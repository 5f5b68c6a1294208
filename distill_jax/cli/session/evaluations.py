"""``evaluation.json``: the scores of a set by ``evaluate``, one entry for each data set, protocol, R and seed."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill_jax.cli.session.atomic import read_json, write_json
from distill_jax.types import RequestError

IDENTITY = ("set", "dataset", "protocol", "repeats", "seed", "full_epochs")
"""evaluations with equal values of these fields share one entry, to which further networks are added"""


def read(path: Path, mend: str) -> list[dict[str, Any]]:
    """Return the entries in ``path``; none if it does not exist. A file of schema 1 is a single entry.

    Raise RequestError with the advice ``mend`` if it is not a file of evaluations.
    """
    content = read_json(path, mend)
    if content is None:
        return []
    if not isinstance(content, dict) or "schema" not in content:
        raise RequestError(f"{path} was not written by an evaluation: {mend}")
    if content["schema"] == 2:
        return content["evaluations"]
    return [{name: value for name, value in content.items() if name != "schema"}]


def networks(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores in ``path`` that belong to ``entry``, by network."""
    same = [other for other in read(path, "give another --out") if _same(other, entry)]
    return {name: scores for other in same for name, scores in other["nets"].items()}


def add(path: Path, entry: Mapping[str, Any]) -> None:
    """Write ``entry`` to ``path``, with the networks that the file has for it. Other entries stay, also those that
    another process of this installation adds at the same time."""
    with Path(__file__).open() as lock:  # for an instant, and for any ``path``, so that no lock file stays behind
        with suppress(OSError):  # a network file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        others = [other for other in read(path, "give another --out") if not _same(other, entry)]
        merged = {**entry, "nets": {**networks(path, entry), **entry["nets"]}}
        write_json(path, {"schema": 2, "evaluations": [*others, merged]})


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in IDENTITY)
