"""Every compressor that ships, by the call that makes it, with what it claims; as `registry.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from fedjax_rec import compress
from fedjax_rec.strategies.adapters import by_component
from fedjax_rec.types import Compressor


def plain() -> Compressor:
    """Sends every node as it is."""
    return compress.nodewise(
        lambda node: (),
        lambda key, memory, node, now: (memory, node, ()),
        lambda body, side, node, now: body,
        linear=True,
    )


def shrunk(share):
    """Sends share * x, with a share that may be traced."""
    return compress.leafwise(
        lambda key, x, real: (x * share, ()), lambda body, side, like: body / share
    )


def halved(dtype=jnp.float16):
    """A compressor in two lines: half precision after a scale."""

    def encode(key, x, real):
        scale = jnp.maximum(jnp.abs(x).max(), 1e-30)
        return (x / scale).astype(dtype), scale

    return compress.leafwise(encode, lambda body, scale, like: body.astype(like.dtype) * scale)


@dataclass(frozen=True)
class Law:
    """A compressor and what it claims, for every update and key.

    error: |C(x) - x| <= error * max |x| in every coordinate of a node. unbiased: E C(x) = x; with
    omega: E |C(x) - x|^2 <= omega |x|^2. contraction: |C(x) - x|^2 <= contraction * |x|^2. These
    hold for every node by itself, or of the `whole` update only; where there is memory, in the
    first round. largest: numbers beyond it may overflow. linear: as the compressor says.
    """

    make: Callable[[], Compressor]
    error: float | None = None
    unbiased: bool = False
    omega: float | None = None
    contraction: float | None = None
    whole: bool = False
    largest: float = np.inf
    linear: bool = False

    def claims(self) -> dict:
        """What `testing.check_compressor` is told."""
        names = ("error", "unbiased", "omega", "contraction", "whole", "largest")
        return {name: getattr(self, name) for name in names}


COMPRESSORS = {
    "identity()": Law(
        lambda: compress.identity(), error=0.0, unbiased=True, contraction=0.0, linear=True
    ),
    "cast('bfloat16')": Law(lambda: compress.cast("bfloat16"), error=2.0**-8, contraction=2.0**-16),
    "cast('float16')": Law(lambda: compress.cast("float16"), error=2.0**-11, largest=65504),
    "leafwise(scaled float16)": Law(lambda: halved(), error=2.0**-11),
    "nodewise(as it is)": Law(lambda: plain(), error=0.0, linear=True),
    "chain(halved, cast)": Law(
        lambda: compress.chain(halved(jnp.float32), compress.cast("bfloat16")), error=2.0**-8
    ),
    "partition(rows, dense)": Law(
        lambda: compress.partition({"rows": compress.cast("float16"), "bias": halved()}),
        error=2.0**-11,
        largest=65504,
    ),
    "by_component(cast)": Law(
        lambda: by_component(compress.cast("float16")), error=2.0**-11, largest=65504
    ),
    "per_leaf(cast)": Law(lambda: compress.per_leaf(compress.cast()), error=2.0**-8),
    "cheaper(qsgd)": Law(
        lambda: compress.cheaper(compress.qsgd(7)), unbiased=True, omega=350**0.5 / 7
    ),
    "scheduled(scaled)": Law(
        lambda: compress.scheduled(lambda share: shrunk(share), lambda round: 1.0 - 0.1 * round),
        error=1e-6,
    ),
    "error_feedback(cast)": Law(
        lambda: compress.error_feedback(compress.cast()), error=2.0**-8, contraction=2.0**-16
    ),
    "error_feedback(rows=8)": Law(
        lambda: compress.error_feedback(compress.top_k(0.2), rows=8, dtype="bfloat16"),
        contraction=0.8,
    ),
    "error_feedback(eden)": Law(
        lambda: compress.error_feedback(compress.eden(2, unbiased=False, block=64)),
        contraction=1.0,
    ),
    "ef21(cast, rows=4)": Law(
        lambda: compress.ef21(compress.cast(), rows=4), error=2.0**-8, contraction=2.0**-16
    ),
    "ef21(top_k)": Law(lambda: compress.ef21(compress.top_k(0.3)), error=1.0, contraction=0.7),
    "diana(qsgd)": Law(lambda: compress.diana(compress.qsgd(16), 0.5), unbiased=True, omega=1.0),
    "momentum_correction(top_k)": Law(
        lambda: compress.momentum_correction(compress.top_k(0.3)), error=1.0, contraction=0.7
    ),
    # sparse
    "top_k(0.3)": Law(lambda: compress.top_k(0.3), error=1.0, contraction=0.7),
    "warm_up_top_k(0.5, 0.1)": Law(
        lambda: compress.warm_up_top_k(0.5, 0.1, 4), error=1.0, contraction=0.5
    ),
    "global_top_k(0.3)": Law(
        lambda: compress.global_top_k(0.3), error=1.0, contraction=0.7, whole=True
    ),
    "per_leaf(global_top_k)": Law(
        lambda: compress.per_leaf(compress.global_top_k(0.3)), error=1.0, contraction=0.7
    ),
    "top_k_per_row(2)": Law(lambda: compress.top_k_per_row(2), error=1.0, contraction=1 - 2 / 70),
    "threshold(0.5)": Law(lambda: compress.threshold(0.5, 0.5), error=1.0, contraction=1.0),
    "sparse_ternary(0.3)": Law(lambda: compress.sparse_ternary(0.3), error=1.0, contraction=1.0),
    "random_k(0.3)": Law(
        lambda: compress.random_k(0.3), unbiased=True, omega=1 / 0.3 - 1, linear=True
    ),
    "random_mask(0.3)": Law(
        lambda: compress.random_mask(0.3), unbiased=True, omega=1 / 0.3 - 1, linear=True
    ),
    "random_k(0.3, unscaled)": Law(
        lambda: compress.random_k(0.3, scaled=False), error=1.0, contraction=1.0, linear=True
    ),
    "random_mask(0.3, unscaled)": Law(
        lambda: compress.random_mask(0.3, scaled=False), error=1.0, contraction=1.0, linear=True
    ),
    "masked()": Law(
        lambda: compress.masked(), error=0.0, unbiased=True, contraction=0.0, linear=True
    ),
    "columns(0.5)": Law(lambda: compress.columns(0.5), error=1.0, contraction=0.5, linear=True),
    # quantizers
    "stochastic_uniform(16)": Law(
        lambda: compress.stochastic_uniform(16), error=2 / 15, unbiased=True, omega=0.8
    ),
    "stochastic_uniform(3)": Law(lambda: compress.stochastic_uniform(3), error=1.0, unbiased=True),
    "qsgd(7)": Law(lambda: compress.qsgd(7), unbiased=True, omega=350**0.5 / 7),
    "qsgd_elias()": Law(lambda: compress.qsgd_elias(), unbiased=True, omega=1.0),
    "terngrad()": Law(lambda: compress.terngrad(), error=1.0, unbiased=True, omega=8.9),
    "terngrad(clip=2.5)": Law(lambda: compress.terngrad(2.5)),
    "natural()": Law(lambda: compress.natural(), error=1.0, unbiased=True, omega=1 / 8),
    "scaled_sign()": Law(lambda: compress.scaled_sign(), error=1.0, contraction=1.0),
    "scaled_cast('float8_e4m3fn')": Law(
        lambda: compress.scaled_cast("float8_e4m3fn"), error=2.0**-4, contraction=2.0**-8
    ),
    "cast('float8_e5m2')": Law(lambda: compress.cast("float8_e5m2"), error=2.0**-3, largest=57344),
    "stochastic_cast()": Law(
        lambda: compress.stochastic_cast(), error=2.0**-7, unbiased=True, omega=2.0**-16
    ),
    # rotated
    "rotate(2, 64)": Law(lambda: compress.rotate(2, 64), error=1e-4, contraction=1e-9, linear=True),
    "chain(rotate, stochastic_uniform)": Law(
        lambda: compress.chain(compress.rotate(1, 64), compress.stochastic_uniform(16)),
        unbiased=True,
    ),
    "drive()": Law(lambda: compress.drive(block=64)),
    "eden(4)": Law(lambda: compress.eden(4, block=64)),
    "eden(2, biased)": Law(lambda: compress.eden(2, unbiased=False, block=64), contraction=1.0),
    "lloyd_max(3)": Law(lambda: compress.lloyd_max(3, unbiased=False), contraction=1.0),
    # low rank and sketches
    "truncated_svd(2)": Law(lambda: compress.truncated_svd(2), contraction=1 - 2 / 5),
    "power_sgd_one_shot(2)": Law(lambda: compress.power_sgd_one_shot(2), contraction=1.0),
    "seeded_low_rank(2)": Law(lambda: compress.seeded_low_rank(2), contraction=1.0, linear=True),
    "seeded_projection(2)": Law(lambda: compress.seeded_projection(2), linear=True),
    "count_sketch(3, 20)": Law(lambda: compress.count_sketch(3, 20)),
    "count_sketch(1, 20)": Law(lambda: compress.count_sketch(1, 20), linear=True),
    # all parts of which are linear
    "chain(rotate, random_mask)": Law(
        lambda: compress.chain(compress.rotate(1, 64), compress.random_mask(0.5)),
        unbiased=True,
        linear=True,
    ),
    "partition(seeded, masked)": Law(
        lambda: compress.partition(
            {"rows": compress.seeded_low_rank(2), "kernel": compress.masked()}
        ),
        contraction=1.0,
        linear=True,
    ),
    "per_leaf(columns)": Law(
        lambda: compress.per_leaf(compress.columns(0.5)), error=1.0, contraction=0.5, linear=True
    ),
    "by_component()": Law(lambda: by_component(), error=0.0, linear=True),
    "error_feedback(seeded)": Law(
        lambda: compress.error_feedback(compress.seeded_low_rank(2)), contraction=1.0, linear=True
    ),
    # Konecny et al. 2016, and others in a row
    "chain(rotate, random_mask, stochastic_uniform)": Law(
        lambda: compress.chain(
            compress.rotate(1, 64), compress.random_mask(0.25), compress.stochastic_uniform(4)
        ),
    ),
    "chain(top_k, natural)": Law(
        lambda: compress.chain(compress.top_k(0.3), compress.natural()), error=1.0
    ),
    "chain(svd, eden)": Law(
        lambda: compress.chain(compress.truncated_svd(2), compress.eden(4, block=64)),
    ),
}
