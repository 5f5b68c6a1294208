"""Which classes a data set consists of: said by name, WordNet id, number, range or the name of a published list."""

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
"""the published lists, which class_lists.json holds and tells the origin of"""
IMAGENET = 1000
"""classes of ILSVRC-2012"""


class Chosen(NamedTuple):
    """Some classes of a data set, in the order that they were said in."""

    name: str
    """of the data set that consists of them: ``cifar10[cat,dog]``"""
    places: list[int]
    """[c]: their numbers in the whole data set"""
    names: tuple[str, ...]
    """[c], as the data set calls them"""


def chosen(name: str, names: Sequence[str], words: Sequence[str]) -> Chosen:
    """The classes of the data set ``name``, called ``names`` [C], that ``words`` mean; all where there are no words.

    A word is the name of a class (for data of ImageNet that is its WordNet id), else a number ``3`` or a range
    ``0:20``, end excluded; the name of a published list stands alone. Raises RequestError for a word that means no
    class, a class that is named twice, and fewer than two classes.
    """
    words = _listed(words)
    if not words:
        return Chosen(name, list(range(len(names))), tuple(names))
    if _is_list(words) and words[0] not in names:
        places = _published(name, names, words[0])
    else:
        places = [place for word in words for place in _meant(name, names, word, alone=len(words) == 1)]
    _check(name, words, [names[place] for place in places], places)
    said = words if len(words) <= 4 else [*words[:2], "...", words[-1]]
    return Chosen(f"{name}[{','.join(said)}]", places, tuple(names[place] for place in places))


def count_classes(name: str, classes: int, words: Sequence[str]) -> int:
    """How many classes ``words`` mean in the data set ``name`` of so many ``classes``, whose names are not known: a
    word that is no number, range or list counts as one. Raises RequestError where that cannot be."""
    words = _listed(words)
    if _is_list(words):
        if classes != IMAGENET:
            raise RequestError(f"{words[0]} is a list of classes of ImageNet, {name} has others: name some of those")
        return len(class_lists()[words[0]])
    meant: list[str | int] = []
    for word in words:
        if word in LISTS:
            raise _with_others(word)
        meant += _numbers(name, classes, word) or [word]
    _check(name, words, list(map(str, meant)), meant)
    if len(meant) > classes:
        raise RequestError(f"{name} has {classes} classes, not {len(meant)}: name some of those")
    return len(meant)


@cache
def class_lists() -> Mapping[str, Sequence[str | int]]:
    """The published lists by name: WordNet ids, or places among the classes of ImageNet sorted by WordNet id; each in
    the order of its labels."""
    content = json.loads(files("distill_jax.data").joinpath("class_lists.json").read_text(encoding="utf-8"))
    return {name: tuple(content[name]) for name in LISTS}


def _listed(words: Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(map(str, words))


def _is_list(words: Sequence[str]) -> bool:
    return len(words) == 1 and words[0] in LISTS


def _with_others(which: str) -> RequestError:
    return RequestError(f"{which} is a list of classes: name it alone")


def _check(name: str, words: Sequence[str], called: Sequence[str], meant: Sequence[str | int]) -> None:
    for i, one in enumerate(meant):
        if one in meant[:i]:
            raise RequestError(f"{name}: the class {called[i]} is named twice: name each once")
    if len(meant) < 2:
        raise RequestError(f"{name}: {' '.join(words)} is only one class: name at least two")


def _published(name: str, names: Sequence[str], which: str) -> list[int]:
    """The places of the classes of a published list."""
    members = class_lists()[which]
    places = [member for member in members if isinstance(member, int)]
    if places:
        if len(names) == IMAGENET and list(names) == sorted(set(names)) and all(map(_is_wordnet_id, names)):
            return places
        raise RequestError(
            f"{which} is for a data set of all {IMAGENET} classes of ImageNet, called by their WordNet ids and in that "
            f"order, and {name} is none: take imagenet2012 or such a folder:PATH"
        )
    number = {called: place for place, called in enumerate(names)}
    missing = [str(member) for member in members if member not in number]
    if missing:
        raise RequestError(
            f"{name} lacks {len(missing)} of the {len(members)} classes of {which}, such as {missing[0]}: take "
            "imagenet2012, or a folder:PATH whose classes are called by their WordNet ids"
        )
    return [number[str(member)] for member in members]


def _is_wordnet_id(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def _meant(name: str, names: Sequence[str], word: str, alone: bool) -> Iterable[int]:
    """The places of the classes that one word means."""
    called = [place for place, other in enumerate(names) if other == word]
    if len(called) > 1:
        raise RequestError(f"{name} has {len(called)} classes called {word!r}: give them names of their own")
    if called:
        return called
    numbers = _numbers(name, len(names), word)
    if numbers:
        # Else 1:3 of the classes 1, 10, 2, 3 would silently be 10 and 2.
        odd = [other for place, other in enumerate(names) if other.isdecimal() and other != str(place)]
        if odd:
            raise RequestError(f"{name}: {word} is not clear, as its class {odd[0]} has another number: give names")
        return numbers
    if word in LISTS:
        raise _with_others(word)
    known = [*names, *(LISTS if alone else ())]
    hint = near_miss(word, known)
    if len(hint) > 200:
        hint = f"choose from its {len(names)} classes {', '.join(names[:3])}, ..., {names[-1]}"
    raise RequestError(f"{name} has no class {word!r}: {hint}")


def _numbers(name: str, classes: int, word: str) -> Sequence[int]:
    """What a number or a range stands for; nothing where the word is neither."""
    span = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", word)
    if span is None:
        return ()
    first = int(span[1])
    end = first + 1 if span[2] is None else int(span[2])
    if end > classes:
        raise RequestError(f"{name} has no class {end - 1}, which {word} asks for: its classes are 0 to {classes - 1}")
    if first >= end:
        raise RequestError(f"{name}: {word} is no class: a range is FIRST:END, without END")
    return range(first, end)
