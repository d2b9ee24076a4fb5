"""Writes adapters by models.export_peft, with our logits, for `make_adapters.py FOLDER` to read.

    python tests/models/write_adapters.py FOLDER

Random adapters at all linear layers of four checkpoints: LoRA of rank 3 whose first layer has two
components and whose second has none, rsLoRA, and DoRA.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import models

BASES = Path(__file__).parent / "checkpoints"
KINDS = {"lora": (models.lora, False), "rslora": (models.lora, True), "dora": (models.dora, False)}


def write(folder: Path, source: Path, adapt, rslora: bool) -> None:
    decoder = models.freeze(models.load_decoder(source))
    adapt(decoder, nnx.Rngs(0), "*", rank=3, alpha=5.0)
    for i, (_, part) in enumerate(nnx.iter_modules(decoder)):
        if isinstance(part, models.LoRA):
            part.lora_b[...] = 0.2 * jax.random.normal(jax.random.key(i), part.lora_b.shape)
            if isinstance(part, models.DoRA):
                part.lora_m[...] *= 1.1
            elif part.lora_a.ndim == 3 and not rslora:
                a, b = part.lora_a[...], part.lora_b[...]
                part.lora_a[...] = a.at[0, :, 2].set(0).at[1].set(0)
                part.lora_b[...] = b.at[0, 2].set(0).at[1].set(0)
    models.export_peft(decoder, folder, source, rslora=rslora)
    tokens = np.random.default_rng(0).integers(3, 64, (2, 8), dtype=np.int32)
    np.savez(folder / "ours.npz", tokens=tokens, logits=decoder(jnp.asarray(tokens)))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    for source in (BASES / name for name in ("llama", "qwen2", "gemma2", "phi3")):
        for kind, (adapt, rslora) in KINDS.items():
            write(Path(sys.argv[1]) / f"{source.name}_{kind}", source, adapt, rslora)
            print(source.name, kind)
