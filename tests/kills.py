"""Simulated kills at chosen moments."""

from collections.abc import Callable


class Killed(BaseException):
    """A simulated SIGKILL, which no code catches."""


def dies(function: Callable, call: int, after: bool) -> Callable:
    """Wrap ``function`` so that its call number ``call``, counted from 1, raises Killed before or after its work."""
    calls = iter(range(1, 1000))

    def wrapper(*args, **kwargs):
        number = next(calls)
        if number == call and not after:
            raise Killed
        result = function(*args, **kwargs)
        if number == call:
            raise Killed
        return result

    return wrapper
