"""BERT, RoBERTa, XLM-R, DistilBERT, MPNet and ELECTRA, which are one `bert.Bert`.

They differ in names, in where places are counted from, and in what `Family` says. Heads take no
part in what comes out of the last layer. Old files call norms `gamma` and `beta`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .... import weights
from ..bert import ACTIVATIONS, LINEARS, NORMS, Bert, BertSizes, Layer, called_by
from ..held import Held
from ..layers import LayerNorm, Linear
from ..settings import Settings

# Keys that concern heads and training alone.
HARMLESS = frozenset([
    "attention_probs_dropout_prob", "directionality", "dropout", "gradient_checkpointing",
    "output_past", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "qa_dropout", "seq_classif_dropout",
    "summary_activation", "summary_first_dropout", "summary_last_dropout", "summary_type",
    "summary_use_proj", "tie_weights_", "tie_word_embeddings",
])  # fmt: skip
# Beginnings of the names of heads, and of numbers that config.json says too.
HEADS = (
    "classifier.", "cls.", "discriminator_predictions.", "embeddings.position_ids",
    "generator_lm_head.", "generator_predictions.", "lm_head.", "pooler.", "qa_outputs.",
    "vocab_layer_norm.", "vocab_projector.", "vocab_transform.",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """sizes: of the file. before: what may stand before names. offset: the first place that a text
    takes in the table of positions. linears, norms, layer: names, as in `bert`. kinds, project,
    apart: whether there are such tensors."""

    sizes: BertSizes
    before: str
    offset: int = 0
    linears: Mapping[str, str] | None = None
    norms: Mapping[str, str] | None = None
    layer: str = "encoder.layer.{}.{}"
    kinds: bool = True
    project: int | None = None
    apart: bool = False


def sizes_of(said: Settings, positions: int = 512, types: bool = True) -> BertSizes:
    """The keys that most write alike."""
    said.only("position_embedding_type", "absolute")
    said.only("add_cross_attention", False)
    return BertSizes(
        said.count("vocab_size"), said.count("hidden_size"), said.count("num_hidden_layers"),
        said.count("num_attention_heads"), said.count("intermediate_size"),
        said.count("max_position_embeddings", positions),
        said.count("type_vocab_size", 2) if types else 1,
        float(said.number("layer_norm_eps", 1e-12)),
        said.only("hidden_act", "gelu", *ACTIVATIONS),
    )  # fmt: skip


def as_bert(said: Settings) -> Family:
    return Family(sizes_of(said), "bert.")


def as_roberta(said: Settings) -> Family:
    """Places are counted from behind the padding token on, as fairseq does."""
    return Family(sizes_of(said), "roberta.", said.number("pad_token_id", 1) + 1)


def as_mpnet(said: Settings) -> Family:
    """Of the padding token, 1 whatever the file says."""
    said.only("relative_attention_num_buckets", 32)
    names = {name: f"attention.attn.{name[0]}" for name in ("query", "key", "value", "out")}
    linears = {**LINEARS, **names, "out": "attention.attn.o"}
    norms = {**NORMS, "attention_norm": "attention.LayerNorm"}
    sizes = sizes_of(said, types=False)
    return Family(sizes, "mpnet.", 2, linears, norms, kinds=False, apart=True)


def as_electra(said: Settings) -> Family:
    sizes, narrow = sizes_of(said), said.count("embedding_size", 128)
    return Family(sizes, "electra.", project=None if narrow == sizes.width else narrow)


def as_distilbert(said: Settings) -> Family:
    said.take("sinusoidal_pos_embds", False)  # how the table began; it is stored either way
    sizes = BertSizes(
        said.count("vocab_size", 30_522), said.count("dim", 768), said.count("n_layers", 6),
        said.count("n_heads", 12), said.count("hidden_dim", 3072),
        said.count("max_position_embeddings", 512), 1, 1e-12,
        said.only("activation", "gelu", *ACTIVATIONS),
    )  # fmt: skip
    linears = {
        "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
        "out": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2",
    }  # fmt: skip
    norms = {"attention_norm": "sa_layer_norm", "norm": "output_layer_norm"}
    layer = "transformer.layer.{}.{}"
    return Family(sizes, "distilbert.", 0, linears, norms, layer, kinds=False)


def encoder(said: Settings, place: Path, family: Callable[[Settings], Family]) -> Bert:
    """Of the config.json of `place`, and its tensors, held in float32.

    Raises ValueError for a key or a tensor that is not computed.
    """
    made = family(said)
    for name in ("is_decoder", "is_encoder_decoder"):
        if said.take(name, False):
            said.refuse(name, "use a model that attends to the whole text")
    said.done(HARMLESS)
    if made.sizes.width % made.sizes.heads:
        raise ValueError(
            f"{said.where}: a width of {made.sizes.width} is no multiple of {made.sizes.heads} "
            "heads; fetch it again."
        )
    held, sizes = Held(place, spelt(place), made.before, HEADS), made.sizes
    narrow, width = made.project or sizes.width, sizes.width
    get = held.get

    def layers(name: str, *shape: int) -> jax.Array:
        return held.each([made.layer.format(i, name) for i in range(sizes.layers)], *shape)

    def linear(ours: str, theirs: str) -> Linear:
        ins = sizes.hidden if ours == "down" else width
        outs = sizes.hidden if ours == "up" else width
        kernel = layers(f"{theirs}.weight", outs, ins).swapaxes(1, 2)
        return Linear(kernel, layers(f"{theirs}.bias", outs))

    names, norms = made.linears or LINEARS, made.norms or NORMS
    linears = {ours: linear(ours, theirs) for ours, theirs in names.items()}
    pair = lambda read, x, size: (read(f"{x}.weight", size), read(f"{x}.bias", size))
    normed = {ours: LayerNorm(*pair(layers, x, width), eps=sizes.eps) for ours, x in norms.items()}
    table = lambda name, rows: get(f"embeddings.{name}_embeddings.weight", rows, narrow)
    first = LayerNorm(*pair(get, "embeddings.LayerNorm", narrow), eps=sizes.eps)
    apart = project = None
    if made.apart:
        one = get("encoder.relative_attention_bias.weight", 32, sizes.heads)
        apart = jnp.broadcast_to(one, (sizes.layers, *one.shape))
    if made.project:
        kernel = get("embeddings_project.weight", width, narrow).T
        project = Linear(kernel, get("embeddings_project.bias", width))
    words, positions = table("word", sizes.vocabulary), table("position", sizes.positions)
    kinds = table("token_type", sizes.types) if made.kinds else jnp.zeros((1, narrow))
    held.done()
    stack = Layer(linears, normed, sizes, apart)
    whole = Bert(words, positions[made.offset :], kinds, first, stack, project)
    whole.called = called_by(names, made.layer, made.before)
    return whole


def spelt(place: Path) -> dict[str, np.ndarray]:
    """The tensors of a folder, with norms called as they are today."""
    today = {".gamma": ".weight", ".beta": ".bias"}

    def name(old: str) -> str:
        end = next((x for x in today if old.endswith(x)), "")
        return old.removesuffix(end) + today.get(end, "")

    return {name(old): x for old, x in weights.tensors(place).items()}
