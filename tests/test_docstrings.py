"""The examples in the docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import lossatlas

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(lossatlas.__path__, "lossatlas.")
    if not found.name.endswith(("__main__", "preload"))  # the one runs, the other ignores signals
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module)
    assert failures == 0
