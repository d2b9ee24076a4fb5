"""The examples in the docstrings of this room run."""

import doctest
import importlib
import pkgutil

import pytest

from fedjax_rec import compress

MODULES = [module.name for module in pkgutil.iter_modules(compress.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"{compress.__name__}.{name}")
    assert doctest.testmod(module).failed == 0
