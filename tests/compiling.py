"""Tests that compile for longer than they run do without XLA's costly optimisations."""

import contextlib

import jax


@contextlib.contextmanager
def fast():
    """What compiles inside is compiled fast rather than well."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
