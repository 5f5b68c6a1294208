"""Reads npz:PATH, a data set in one NumPy file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill_jax.data.dataset import Dataset, reason
from distill_jax.types import RequestError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, only: Sequence[str] = ()) -> Dataset:
    """Read the data set in ``path``, and select the classes ``only`` if there are any (``Dataset.only``).

    The file has the arrays ``x_train, y_train, x_test, y_test`` of ``Dataset.from_arrays`` and optionally
    ``class_names`` [C]. Pickled objects are never loaded. Raise RequestError for any other file.
    """
    name = f"npz:{path.name}"
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise RequestError(f"{path} is not an npz file, or is truncated: write it with numpy.savez")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [key for key in KEYS if key not in archive.files]
                if missing:
                    raise RequestError(
                        f"{path} has no {', '.join(missing)} (it has {', '.join(archive.files) or 'nothing'}): "
                        f"write the arrays {', '.join(KEYS)}"
                    )
                arrays = {key: archive[key] for key in (*KEYS, "class_names") if key in archive.files}
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"no file {path}: check the path after npz:") from None
    except OSError as error:
        raise RequestError(f"cannot read {path} ({reason(error)}): check the file") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{path} is damaged or holds pickled objects ({reason(error)}): write it again") from error
    names = arrays.pop("class_names", None)
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise RequestError(
            f"{name}: class_names {names.shape} {names.dtype} is not a list of strings: give one string per class"
        )
    if names is not None:
        names = [x.decode(errors="replace") if isinstance(x, bytes) else str(x) for x in names]
    data = Dataset.from_arrays(name, **arrays, class_names=names)
    return data.only(only) if only else data
