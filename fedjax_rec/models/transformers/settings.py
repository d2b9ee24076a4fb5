"""The keys of a config.json, read so that none is passed over: each is taken by the family that
computes what it says, or known to change nothing, or the folder is refused by the name of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ...check import nearest

# Keys that do not change the logits of a text: names, ids of tokens, how the weights were stored,
# how the model was trained (dropout among it) and how others generate with it.
HARMLESS = frozenset([
    "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attention_dropout", "attn_implementation", "auto_map", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "classifier_dropout", "do_sample", "dtype", "embd_pdrop",
    "eos_token_id", "finetuning_task", "gradient_checkpointing", "hidden_dropout",
    "hidden_dropout_prob", "id2label", "initializer_range", "is_decoder", "is_llama_config",
    "label2id", "max_length", "max_new_tokens", "max_position_embeddings", "model_max_length",
    "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "resid_pdrop", "return_dict", "sep_token_id",
    "task_specific_params", "temperature", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers.js_config", "transformers_version", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_cache",
])  # fmt: skip
MISSING = object()
Made = TypeVar("Made")


class Settings:
    """said: what the file says; a key that is null is not there, but to `nullable`. where: the
    file, for errors."""

    def __init__(self, said: Mapping[str, Any], where: str):
        self.said = {name: value for name, value in said.items() if value is not None}
        self.null = said.keys() - self.said.keys()
        self.where, self.taken = where, set[str]()

    def take(self, name: str, absent: Any = MISSING) -> Any:
        """The value of `name`, which is honoured from now on; `absent` where there is none.

        Raises ValueError where it is needed and not there.
        """
        self.taken.add(name)
        if name in self.said:
            return self.said[name]
        if absent is MISSING:
            raise ValueError(f"{self.where} has no {name}; give the whole file of the model.")
        return absent

    def number(self, name: str, absent: Any = MISSING) -> Any:
        """`take` of what must be a number, or `absent`.

        Raises ValueError for anything else.
        """
        value = self.take(name, absent)
        if value is not absent and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{self.where} has {name}={value!r}, which is no number; correct it.")
        return value

    def count(self, name: str, absent: Any = MISSING) -> Any:
        """`take` of what must be a whole number of at least one, or `absent`.

        Raises ValueError for anything else.
        """
        value = self.number(name, absent)
        if value is not absent and (value != int(value) or value < 1):
            raise ValueError(f"{self.where} has {name}={value!r}, which is no count; correct it.")
        return value if value is absent else int(value)

    def nullable(self, name: str, absent: Any) -> Any:
        """`number`, and None where it is null and not absent."""
        return self.number(name, None if name in self.null else absent)

    def only(self, name: str, *values: Any) -> Any:
        """`take` of what must be one of `values`, the first where it is absent.

        Raises ValueError for anything else.
        """
        value = self.take(name, values[0])
        if value not in values:
            self.refuse(name, f"use a model with {' or '.join(map(repr, values))}")
        return value

    def refuse(self, name: str, remedy: str) -> None:
        """Raises the ValueError of a key that is not honoured."""
        value = repr(self.said.get(name))
        value = value if len(value) <= 60 else value[:57] + "..."
        raise ValueError(f"{self.where} has {name}={value}, which is not computed here; {remedy}.")

    def done(self, harmless: Collection[str] = ()) -> None:
        """Raises ValueError for the first key that nothing took and that is not `HARMLESS`, nor
        `harmless` in this family."""
        for name in self.said:
            if name not in self.taken and name not in HARMLESS and name not in harmless:
                self.refuse(name, "remove the key if it changes nothing, or use another model")


def family(said: Settings, families: Mapping[str, Callable[[Settings], Made]]) -> Made:
    """What the family of `model_type` makes of `said`.

    Raises ValueError where it is none of `families`.
    """
    kind = said.take("model_type")
    if kind not in families:
        raise ValueError(
            f"{said.where} has model_type={kind!r}, which is no family known here"
            f"{nearest(str(kind), families)}; use one of {', '.join(families)}."
        )
    return families[kind](said)
