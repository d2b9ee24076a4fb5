"""What a client of a decoder of 0.1B to 8B takes: bytes, work, and seconds where it fits.

A client trains LoRA of rank 8 at query and value of all layers for one step on one prompt of 256
tokens that asks yes or no (`models.yes_no`, TALLRec), and sends its adapters. Widths are those that
are published with each model; weights are random, and cost what others do.

Memory is XLA's account of a round that is compiled and does not run, in float32; bases in fewer
bits are what their weights have. Work is what the products of a step need, forward and back to the
first adapter, where frozen weights have no gradient of their own:

    4 T P + 6 (L - 1) T^2 H d,   P weights of linear layers

where the last layer counts its keys and values alone, since one place of it answers, and a place
attends to half of the others on average. Seconds are of the decoders whose round may be held here.

`T` tokens, `L` layers, `H` heads of width `d`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data, models, simulate, strategies
from ..models.text.answers import YesNo, adapted
from ..models.transformers.decoder import KERNELS
from ..models.transformers.families.llama import LlamaSize, llama
from ..rounds.memory import allowed_bytes
from ..types import Cohort, Model, Strategy
from .adapters import account, trained_bytes
from .row import Row
from .timing import repeat

PROMPTS, TOKENS, RANK, TIMES = 1, 256, 8, 3
ANSWERS = (0, 1)
SIZES = {
    "SmolLM2-135M": LlamaSize(49_152, 576, 1536, 30, 9, 3, 64),
    "Qwen3-0.6B": LlamaSize(151_936, 1024, 3072, 28, 16, 8, 128),
    "Llama-3.2-1B": LlamaSize(128_256, 2048, 8192, 16, 32, 8, 64),
    "Llama-3.2-3B": LlamaSize(128_256, 3072, 8192, 28, 24, 8, 128),
    "Llama-3.1-8B": LlamaSize(128_256, 4096, 14_336, 32, 32, 8, 128, tied=False),
}


@dataclass(frozen=True)
class Asked:
    """`clients` that each train on `prompts` of `tokens` tokens, one step a round.

    bits: None for a float32 base, or what `models.in_dtype` or `quantised` calls it.
    """

    size: LlamaSize
    clients: int = 2
    prompts: int = PROMPTS
    tokens: int = TOKENS
    remat: bool = False
    bits: str | None = None

    def model(self) -> Model:
        def build(rngs):
            base: Any = models.freeze(llama(rngs, self.size))
            base.remat = self.remat
            if self.bits == "bfloat16":
                models.in_dtype(base, self.bits)
            elif self.bits is not None:
                models.in_dtype(models.quantised(base, self.bits), "bfloat16")
            return YesNo(adapted(base, rngs, "*query|*value", RANK, 2.0 * RANK), ANSWERS)

        return models.from_nnx(build)

    def strategy(self, clients_per_chunk: int | None = None) -> Strategy:
        return strategies.fedavg(
            self.model(), data.examples(), steps=1, batch_size=self.prompts,
            clients_per_chunk=clients_per_chunk,
        )  # fmt: skip

    def cohort(self) -> Cohort:
        return Cohort(jnp.arange(self.clients), data.pack_examples(self.found()).store)

    def found(self) -> data.Examples:
        """Prompts of random tokens, `prompts` of each client."""
        draw, n = np.random.default_rng(0), self.clients * self.prompts
        fields = {
            "tokens": draw.integers(0, self.size.vocabulary, (n, self.tokens), np.int32),
            "length": np.full(n, self.tokens, np.int32),
            "labels": np.arange(n) % 2 == 0,
        }
        owners = np.repeat(np.arange(self.clients), self.prompts)
        return data.Examples("prompts", fields, owners, np.zeros(n, np.int8), self.size.vocabulary)

    def base_bytes(self) -> int:
        return models.base_nbytes(jax.eval_shape(self.model().init, jax.random.key(0))[0])

    def operations(self) -> int:
        """Of a client's step: multiplications and additions of its products."""
        size = self.size.decoder()
        each = {k: getattr(size, a) * getattr(size, b) for k, (a, b) in KERNELS.items()}
        weights = (size.layers - 1) * sum(each.values()) + each["key"] + each["value"]
        seen = 6 * (size.layers - 1) * self.tokens**2 * size.query_width
        return self.prompts * (4 * self.tokens * weights + seen)


def seconds(world: Asked, times: int = TIMES) -> float:
    """CPU seconds (on an accelerator wall seconds) of a client in a round of `world`, median."""
    strategy, cohort = world.strategy(1), world.cohort()
    state = jax.jit(lambda: strategy.init(jax.random.key(0), world.clients))()
    step = jax.jit(strategy.round)
    found = repeat(lambda: step(jax.random.key(0), state, cohort)[0].round, times)
    spent = found.cpu if jax.default_backend() == "cpu" else found.wall
    return spent / world.clients


def decoders() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    row = partial(Row, "decoders")
    for name, size in SIZES.items():
        world = Asked(size)
        for bits, called in ((None, "float32"), ("bfloat16",) * 2, ("nf4",) * 2):
            base = Asked(size, bits=bits).base_bytes()
            yield row(f"{name}: base in {called}", base / 2**30, "GiB", "")
        sent = trained_bytes(world.model())
        yield row(f"{name}: adapters that a client sends", sent / 2**20, "MiB", "")
        for remat in (False, True):
            found = account(Asked(size, remat=remat))
            what = f"{name}: one more client at once" + ", remat" * remat
            yield row(what, found.each / 2**20, "MiB", "")
        work, peak = world.operations(), found.fixed + found.each
        yield row(f"{name}: a client's step", work / 1e12, "TFLOP", "")
        if peak > allowed_bytes():
            yield row(f"{name}: a client's step takes", None, "s", "its round does not fit here")
            continue
        spent = seconds(world)
        yield row(f"{name}: a client's step takes", spent, "s", "")
        yield row(f"{name}: of it in a second", work / spent / 1e9, "GFLOP", "")
