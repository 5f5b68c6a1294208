"""JSON files, and files that are replaced as a whole, so that a killed process leaves none incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_jax.types import RequestError


def read_json(path: Path, mend: str = "--overwrite starts again") -> Any:
    """Return the JSON in ``path``, or None if it does not exist. Raise RequestError, ending with ``mend``, if it is not
    JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): give another path") from error
    except ValueError as error:
        raise RequestError(f"{path} is damaged ({error}): {mend}") from error


def write_json(path: Path, value: Any) -> None:
    """Replace the JSON file ``path``."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds, so that ``path`` is always complete."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
