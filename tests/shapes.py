"""The run-time check of shapes: beartype on those annotations alone that name one; plain types are pyright's."""

import sys
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

MOST = 200  # calls of a function that are checked: later ones would double the time of small loops


def names_shape(hint: Any) -> bool:
    """Whether a jaxtyping shape stands in a hint: Float[Tensor, "n"], or a union or a tuple with one."""
    own = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return own or any(map(names_shape, get_args(hint)))


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `install_import_hook`, which calls it with functions of its own that carry the annotations."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if names_shape(hint)}
    checked, calls = beartype(function), 0
    if not function.__annotations__:
        release(function)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > MOST:
            release(function)
        return checked(*args, **kwargs)

    return counted


def release(function: Callable[..., Any]) -> None:
    """Takes the check off the function that was hooked: jaxtyping looks at this mark first."""
    try:
        hooked: Any = reduce(getattr, function.__qualname__.split("."), sys.modules[function.__module__])
        hooked.__wrapped__.__no_type_check__ = True
    except (AttributeError, KeyError):  # a property, or a function inside another
        return
