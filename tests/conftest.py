"""A fixture of all rooms: `pytestmark = pytest.mark.usefixtures("compiled_fast")`; and types and
shapes in the annotations of some rooms, checked at every call while tests run."""

import jax
import pytest
import rotating
from compiling import fast
from jaxtyping import install_import_hook

# Where functions are called with arrays, and check no argument themselves. Elsewhere records stand
# for outlines and `vmap` axes as well, and `test_records.py` checks those of a round.
CHECKED = ["fedjax_rec.rows", "fedjax_rec.wire"]
CHECKED += [f"fedjax_rec.evaluate.{name}" for name in ("labelled", "protocol", "ranks")]
# Before anything is computed: programs on a mesh have devices, and others the first of them.
jax.config.update("jax_num_cpu_devices", 4)
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(scope="module")
def compiled_fast():
    """This module's tests are compiled fast rather than well."""
    with fast():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that take seconds take turns; `-m "not slow"` then leaves out those not due."""
    for item in items:
        if item.nodeid in rotating.listed():
            for mark in rotating.marks(item.nodeid, rotating.TURNS):
                item.add_marker(mark)
