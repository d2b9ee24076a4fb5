"""Chat templates: as what a model that was tuned to talk was shown turns of a conversation.

A template is a program of Jinja that comes with the tokenizer: `chat_template.jinja` or
`tokenizer_config.json` of a Hugging Face folder, or `tokenizer.chat_template` of a GGUF file. It is
rendered by the library `jinja2` (extra `text`) in its sandbox, with the settings and functions that
transformers gives it, so that the text is the one of `apply_chat_template`. The special tokens that
a text should have are in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from .gguf import Gguf, gguf, gguf_file
from .tensors import read_json

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
Messages = Sequence[dict[str, str]]  # each with its `role` (system, user, assistant) and `content`


def chat_template(folder: Path) -> Callable[[Messages], str]:
    """The template of the tokenizer in `folder`.

    Args:
        folder: a Hugging Face folder, or one with a GGUF file.

    Returns:
        chat(messages) -> the text of a conversation, which ends where the assistant would answer.

    Raises:
        ImportError: without the library.
        ValueError: where the tokenizer has no template, or one that is no Jinja; and by what is
            returned for messages that the template refuses, such as a system's where it knows none.
    """
    try:
        from jinja2 import TemplateError
    except ImportError as error:
        raise ImportError("chat templates need the library jinja2; pip install jinja2.") from error
    text, special = found(folder)
    environment = sandbox()
    try:
        template = environment.from_string(text)
    except TemplateError as error:
        raise ValueError(f"the chat template of {folder} is no Jinja ({error}).") from error

    def chat(messages: Messages) -> str:
        try:
            said = list(messages)
            return template.render(messages=said, add_generation_prompt=True, **special)
        except TemplateError as error:
            roles = ", ".join(message.get("role", "none") for message in messages)
            raise ValueError(
                f"the chat template of {folder} refuses messages of {roles} ({error}); use those "
                "that it knows."
            ) from error

    return chat


def sandbox() -> Any:
    """Jinja as transformers sets it up for templates."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Marks what the assistant says, for masks of tokens; here its content."""

        tags: ClassVar = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(x: Any, indent: int | None = None) -> str:
        return json.dumps(x, ensure_ascii=False, indent=indent)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    made.filters["tojson"] = as_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return made


def found(folder: Path) -> tuple[str, dict[str, str]]:
    """(the template, the special tokens that it may name)."""
    text = None
    special: dict[str, str] = {}
    if (folder / SETTINGS).is_file():
        said = read_json(folder / SETTINGS)
        special = {
            name: named(x) for name, x in said.items() if name.endswith("_token") and named(x)
        }
        text = said.get("chat_template")
        if isinstance(text, list):  # several, by name
            text = {one["name"]: one["template"] for one in text}.get("default")
    if (folder / TEMPLATE).is_file():
        text = (folder / TEMPLATE).read_text(encoding="utf-8")
    if text is None and (path := gguf_file(folder)) is not None:
        file = gguf(path)
        text, special = file.field("tokenizer.chat_template", "") or None, tokens_of(file)
    if not isinstance(text, str):
        raise ValueError(
            f"{folder} has no chat template; use a model that was tuned to talk, or words without "
            "data.as_chat."
        )
    return text, special


def named(token: Any) -> str:
    """A token that stands as its text, or with its settings; "" for what is none, as a switch."""
    text = token.get("content", "") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def tokens_of(file: Gguf) -> dict[str, str]:
    """The special tokens of a GGUF file by the names that templates have for them."""
    tokens = file.field("tokenizer.ggml.tokens")
    places = {name: file.field(f"tokenizer.ggml.{name}_token_id", -1) for name in ("bos", "eos")}
    return {f"{name}_token": tokens[i] for name, i in places.items() if i >= 0}
