"""The tokenizer in a GGUF file, made anew for the library `tokenizers`.

*Byte-level BPE* (`tokenizer.ggml.model` "gpt2") has its merges in the file; how a text is cut
before them stands there as a name (`tokenizer.ggml.pre`), by which llama.cpp knows the expression
in a model's tokenizer.json. *SentencePiece* (Kudo & Richardson, 2018; "llama": Llama 2, Mistral,
Phi-3, Gemma) has a score for each piece and no merges: the two neighbours that make the piece of
the highest score are joined first. So the merges are all pairs of pieces that make a piece, in the
order of its score; what is no piece falls back to bytes.
"""

from __future__ import annotations

from typing import Any

from .gguf import Gguf

# `tokenizer.ggml.token_type`
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
SPACE = "\u2581"  # as which SentencePiece writes a blank

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = (
    rf"{BEFORE}[{UPPER}]*[{LOWER}]+|{BEFORE}[{UPPER}]+[{LOWER}]*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Digits by threes, or one at a time.
BY_EXPRESSION = {
    **dict.fromkeys(("llama-bpe", "llama3", "dbrx", "smaug-bpe"), WORDS + r"\p{N}{1,3}" + REST),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), WORDS + r"\p{N}" + REST),
    "tekken": TEKKEN,
}
# As GPT-2 cuts, and likewise with digits on their own.
AS_GPT2 = ("gpt-2", "olmo", "phi-2")
SINGLE_DIGITS = ("smollm", "refact", "starcoder", "command-r", "codeshell")
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # whose tokenizer.json composes characters (NFC)
WHOLE_WORDS = ("llama-bpe", "llama3", "tekken")  # a word that is a token is not merged
OPENED = ("llama-bpe", "llama3", "tekken")  # with the first token of a text, unless the file says


def gguf_tokenizer(file: Gguf) -> Any:
    """The `tokenizers.Tokenizer` of the file.

    Args:
        file: an opened one.

    Returns:
        One that neither pads nor truncates, with the tokens before and behind a text that the file
        asks for.

    Raises:
        ValueError: for a kind that is not known.
    """
    kind, cut = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "default")
    known = kind == "gpt2" and cut in (*BY_EXPRESSION, *AS_GPT2, *SINGLE_DIGITS)
    # Read once: of some models they are a quarter of a million.
    tokens = file.field("tokenizer.ggml.tokens")
    types = file.field("tokenizer.ggml.token_type")
    if kind == "llama":
        made = sentence_pieces(file, tokens, types)
    elif known:
        made = bytes_merged(file, tokens, cut)
    else:
        raise ValueError(
            f"{file.path} has a tokenizer of kind {kind}/{cut}, which is not known; put the "
            "tokenizer.json of the model beside it."
        )
    add_whole(made, tokens, types)
    add_ends(made, file, tokens, opened=kind == "llama" or cut in OPENED)
    return made


def bytes_merged(file: Gguf, tokens: list[str], cut: str) -> Any:
    """Byte-level BPE of texts that are cut as `cut` says."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in file.field("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(ids, merges, ignore_merges=cut in WHOLE_WORDS))
    if cut in BY_EXPRESSION:
        first = [pre_tokenizers.Split(Regex(BY_EXPRESSION[cut]), "isolated")]
    else:
        first = [pre_tokenizers.Digits(individual_digits=True)] if cut in SINGLE_DIGITS else []
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in BY_EXPRESSION)
    made.pre_tokenizer = pre_tokenizers.Sequence([*first, as_bytes])
    if cut in COMPOSED:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def sentence_pieces(file: Gguf, tokens: list[str], types: list[int]) -> Any:
    """SentencePiece's BPE by the scores of pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    if file.field("tokenizer.ggml.remove_extra_whitespaces", False):
        raise ValueError(
            f"{file.path} has a tokenizer that takes blanks out of texts, which is not known; put "
            "the tokenizer.json of the model beside it."
        )
    scores = file.field("tokenizer.ggml.scores")
    pieces = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind not in (CONTROL, UNKNOWN, UNUSED, BYTE)
    }
    unknown = [token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN]
    made = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            merges(pieces),
            unk_token=unknown[0] if unknown else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    before = file.field("tokenizer.ggml.add_space_prefix", True)
    first = [normalizers.Prepend(SPACE)] if before else []
    made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if before else []
    joined = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*joined, *after])
    return made


def merges(pieces: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of `pieces` that make a piece, those of the highest score first."""
    found = [
        (-score, piece[:i], piece[i:])
        for piece, score in pieces.items()
        for i in range(1, len(piece))
        if piece[:i] in pieces and piece[i:] in pieces
    ]
    return [(left, right) for _, left, right in sorted(found, key=lambda one: one[0])]


def add_whole(made: Any, tokens: list[str], types: list[int]) -> None:
    """Tokens that are found in a text before anything is cut."""
    from tokenizers import AddedToken

    whole = list(zip(tokens, types, strict=True))
    special = [AddedToken(t, normalized=False, special=True) for t, k in whole if k == CONTROL]
    made.add_special_tokens(special)
    made.add_tokens([AddedToken(t, normalized=False) for t, k in whole if k == USER_DEFINED])


def add_ends(made: Any, file: Gguf, tokens: list[str], opened: bool) -> None:
    """What stands before and behind a text."""
    from tokenizers import processors

    ends = {}
    for name, usual in (("bos", opened), ("eos", False)):
        if file.field(f"tokenizer.ggml.add_{name}_token", usual):
            place = file.field(f"tokenizer.ggml.{name}_token_id")
            ends[name] = tokens[place], place
    if ends:
        first, last = ([ends[n][0]] if n in ends else [] for n in ("bos", "eos"))
        made.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *first, "$B:1", *last],
            special_tokens=list(ends.values()),
        )
