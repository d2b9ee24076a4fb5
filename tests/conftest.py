"""A fixture of all rooms: `pytestmark = pytest.mark.usefixtures("compiled_fast")`; and types and
shapes in the annotations of some rooms, checked at every call while tests run."""

import gc
import os

import jax
import pytest
import rotating
from compiling import fast
from jaxtyping import install_import_hook

# Before anything is compiled: without its emitters of fusions XLA compiles for a CPU in half the
# time, to programs that take a quarter longer. One turn of six keeps them, as users do.
EMITTERS = "--xla_cpu_use_fusion_emitters=false"
if jax.__version__.startswith("0.10.") and (rotating.turn() or 0) % 6:  # a flag may go
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EMITTERS}".strip()
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


@pytest.fixture(scope="module", autouse=True)
def looked_through_once():
    """What a module leaves behind, compiled programs above all, is collected now and then not
    looked through again: by the end of a worker's tests a whole collection takes seconds."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that take long take turns; `-m "not slow"` then leaves out those not due."""
    for item in items:
        of = rotating.listed().get(item.nodeid)
        if of is not None and item.get_closest_marker("in_turn") is None:
            for mark in rotating.marks(item.nodeid, of):
                item.add_marker(mark)
