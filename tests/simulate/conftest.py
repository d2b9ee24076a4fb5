"""These tests compile for longer than they run: they do without costly optimisations."""

import pytest
from compiling import fast


@pytest.fixture(autouse=True, scope="package")
def compiled_fast():
    with fast():
        yield
