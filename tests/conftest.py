"""A fixture of all rooms: `pytestmark = pytest.mark.usefixtures("compiled_fast")`; and types and
shapes in the annotations of some rooms, checked at every call while tests run."""

import pytest
from compiling import fast
from jaxtyping import install_import_hook

# Where functions are called with arrays, and check no argument themselves. Elsewhere records stand
# for outlines and `vmap` axes as well, and `test_records.py` checks those of a round.
CHECKED = ["fedjax_rec.rows", "fedjax_rec.wire"]
CHECKED += [f"fedjax_rec.evaluate.{name}" for name in ("labelled", "protocol", "ranks")]
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(scope="module")
def compiled_fast():
    """This module's tests are compiled fast rather than well."""
    with fast():
        yield
