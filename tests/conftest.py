"""A fixture of all rooms: `pytestmark = pytest.mark.usefixtures("compiled_fast")`."""

import pytest
from compiling import fast


@pytest.fixture(scope="module")
def compiled_fast():
    """This module's tests are compiled fast rather than well."""
    with fast():
        yield
