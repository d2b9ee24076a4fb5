"""These tests compile for longer than they run: they do without costly optimisations."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def plain_programs():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
