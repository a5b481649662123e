"""The run-time check of shapes: beartype on those annotations alone that name one; plain types are pyright's."""

import sys
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

MOST = 200  # calls of a function that are checked in a test: later ones would double the time of small loops


class Round:
    """The test that runs now, by number, and the functions that it has called more than MOST times."""

    number: int = 0
    released: list[Any]

    def __init__(self) -> None:
        self.released = []

    def begin(self) -> None:
        """Checks all functions again, so that no test depends on those before it."""
        self.number += 1
        for function in self.released:
            function.__no_type_check__ = False
        self.released.clear()


ROUND = Round()


def names_shape(hint: Any) -> bool:
    """Whether a jaxtyping shape stands in a hint: Float[Tensor, "n"], or a union or a tuple with one."""
    own = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return own or any(map(names_shape, get_args(hint)))


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `install_import_hook`, which calls it with functions of its own that carry the annotations."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if names_shape(hint)}
    checked, calls, number = beartype(function), 0, ROUND.number
    if not function.__annotations__:
        release(function)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, number
        calls, number = (calls if number == ROUND.number else 0) + 1, ROUND.number
        if calls > MOST and (hooked := release(function)):
            ROUND.released.append(hooked)
        return checked(*args, **kwargs)

    return counted


def release(function: Callable[..., Any]) -> Any:
    """Takes the check off the function that was hooked, and returns it: jaxtyping looks at this mark first."""
    try:
        hooked: Any = reduce(getattr, function.__qualname__.split("."), sys.modules[function.__module__])
        hooked.__wrapped__.__no_type_check__ = True
        return hooked.__wrapped__
    except (AttributeError, KeyError):  # a property, or a function inside another
        return None
