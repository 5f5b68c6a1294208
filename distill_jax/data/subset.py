"""Selects classes of a data set by name, WordNet id, number, range or the name of a published list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from distill_jax.types import RequestError, near_miss

LISTS = (
    "imagenet10", "imagenet100", "imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow",
)  # fmt: skip
"""names of the published lists; class_lists.json holds the lists and their sources"""
IMAGENET = 1000
"""number of classes of ILSVRC-2012"""


class Selection(NamedTuple):
    """Selected classes of a data set, in the order of the request."""

    name: str
    """name of the data set of these classes: ``cifar10[cat,dog]``"""
    indices: list[int]
    """[c], class numbers in the whole data set"""
    names: tuple[str, ...]
    """[c], class names in the whole data set"""


def select_classes(name: str, names: Sequence[str], words: Sequence[str]) -> Selection:
    """Select the classes that ``words`` name in the data set ``name``, whose classes are ``names`` [C]. No words select
    all classes.

    A word is the name of a class (the WordNet id in ImageNet data), else a number ``3`` or a range ``0:20``, end
    excluded. A single word may be the name of a published list. Raise RequestError for a word that names no class, a
    class that is named twice, or fewer than two classes.
    """
    words = _as_list(words)
    if not words:
        return Selection(name, list(range(len(names))), tuple(names))
    if _is_published(words) and words[0] not in names:
        indices = _published_indices(name, names, words[0])
    else:
        indices = [index for word in words for index in _word_indices(name, names, word, alone=len(words) == 1)]
    _check(name, words, [names[index] for index in indices], indices)
    short = words if len(words) <= 4 else [*words[:2], "...", words[-1]]
    return Selection(f"{name}[{','.join(short)}]", indices, tuple(names[index] for index in indices))


def count_classes(name: str, classes: int, words: Sequence[str]) -> int:
    """Return the number of classes that ``words`` select in the data set ``name``, which has ``classes`` classes whose
    names are unknown. A word that is no number, range or list counts as one class. Raise RequestError if the data set
    cannot have these classes."""
    words = _as_list(words)
    if _is_published(words):
        if classes != IMAGENET:
            raise RequestError(f"{words[0]} lists classes of ImageNet, which {name} is not: name classes of {name}")
        return len(class_lists()[words[0]])
    selected: list[str | int] = []
    for word in words:
        if word in LISTS:
            raise _list_among_words(word)
        selected += _numbers(name, classes, word) or [word]
    _check(name, words, list(map(str, selected)), selected)
    if len(selected) > classes:
        raise RequestError(f"{name} has {classes} classes, not {len(selected)}: name at most {classes} of its classes")
    return len(selected)


@cache
def class_lists() -> Mapping[str, Sequence[str | int]]:
    """Return the published lists by name, each in label order. Their members are WordNet ids, or indices into the
    classes of ImageNet sorted by WordNet id."""
    content = json.loads(files("distill_jax.data").joinpath("class_lists.json").read_text(encoding="utf-8"))
    return {name: tuple(content[name]) for name in LISTS}


def _as_list(words: Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(map(str, words))


def _is_published(words: Sequence[str]) -> bool:
    return len(words) == 1 and words[0] in LISTS


def _list_among_words(which: str) -> RequestError:
    return RequestError(f"{which} is a list of classes: name it alone")


def _check(name: str, words: Sequence[str], labels: Sequence[str], selected: Sequence[str | int]) -> None:
    for i, one in enumerate(selected):
        if one in selected[:i]:
            raise RequestError(f"{name}: the class {labels[i]} is named twice: name each class once")
    if len(selected) < 2:
        raise RequestError(f"{name}: {' '.join(words)} is only one class: name at least two")


def _published_indices(name: str, names: Sequence[str], which: str) -> list[int]:
    """Return the indices of the classes of a published list."""
    members = class_lists()[which]
    indices = [member for member in members if isinstance(member, int)]
    if indices:
        if len(names) == IMAGENET and list(names) == sorted(set(names)) and all(map(_is_wordnet_id, names)):
            return indices
        raise RequestError(
            f"{which} needs a data set of all {IMAGENET} classes of ImageNet, named by their WordNet ids in sorted "
            f"order, which {name} is not: use imagenet2012, or a folder:PATH with these classes"
        )
    number = {cls: index for index, cls in enumerate(names)}
    missing = [str(member) for member in members if member not in number]
    if missing:
        raise RequestError(
            f"{name} lacks {len(missing)} of the {len(members)} classes of {which}, such as {missing[0]}: use "
            "imagenet2012, or a folder:PATH whose classes are named by their WordNet ids"
        )
    return [number[str(member)] for member in members]


def _is_wordnet_id(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def _word_indices(name: str, names: Sequence[str], word: str, alone: bool) -> Iterable[int]:
    """Return the indices of the classes that one word names. ``alone``: it is the only word."""
    matches = [index for index, other in enumerate(names) if other == word]
    if len(matches) > 1:
        raise RequestError(f"{name} has {len(matches)} classes named {word!r}: give each class its own name")
    if matches:
        return matches
    numbers = _numbers(name, len(names), word)
    if numbers:
        # Otherwise 1:3 in a data set of the classes 1, 10, 2, 3 would silently select 10 and 2.
        odd = [other for index, other in enumerate(names) if other.isdecimal() and other != str(index)]
        if odd:
            raise RequestError(f"{name}: {word} is ambiguous, because its class {odd[0]} has another number: use names")
        return numbers
    if word in LISTS:
        raise _list_among_words(word)
    known = [*names, *(LISTS if alone else ())]
    hint = near_miss(word, known)
    if len(hint) > 200:
        hint = f"choose from its {len(names)} classes {', '.join(names[:3])}, ..., {names[-1]}"
    raise RequestError(f"{name} has no class {word!r}: {hint}")


def _numbers(name: str, classes: int, word: str) -> Sequence[int]:
    """Return the class numbers that a number or a range stands for; none if the word is neither."""
    span = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", word)
    if span is None:
        return ()
    first = int(span[1])
    end = first + 1 if span[2] is None else int(span[2])
    if end > classes:
        which = "" if span[2] is None else f", which {word} includes"
        raise RequestError(f"{name} has no class {end - 1}{which}: its classes are 0 to {classes - 1}")
    if first >= end:
        raise RequestError(f"{name}: {word} is an empty range: write FIRST:END, where class END is not included")
    return range(first, end)
