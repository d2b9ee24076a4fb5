"""Tokenizers of GGUF files, against merges by hand and what each family's cut is known for."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

from fedjax_rec import weights  # noqa: E402
from fedjax_rec.weights.gguf_tokenizers import BYTE, CONTROL, SPACE, UNKNOWN, USER_DEFINED  # noqa: E402

NORMAL = 1
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def file(place: Path, kind: str, tokens: Sequence[str], types: Sequence[int], **fields) -> Path:
    """A folder with a file that holds a tokenizer alone; in `fields` what else it says."""
    writer = gguf.GGUFWriter(place / "only.gguf", "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place


def joined(pieces: dict[str, float], text: str) -> list[str]:
    """SentencePiece's BPE: of all neighbours those that make the best piece, the first of equals,
    until none do; then bytes for what is no piece."""
    parts = list(text)
    while True:
        made = [(-pieces.get(a + b, -np.inf), i) for i, (a, b) in enumerate(pairwise(parts))]
        worst, i = min(made, default=(np.inf, 0))
        if worst == np.inf:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    apart = ([x] if x in pieces else [BYTES[b] for b in x.encode()] for x in parts)
    return [x for part in apart for x in part]


@pytest.fixture(scope="module")
def pieces():
    """60 pieces of two to four letters, then letters and a blank, with scores as they are given."""
    rng, letters = np.random.default_rng(0), ["a", "b", "c", "d", SPACE]
    found = list(letters)
    while len(found) < 65:
        made = "".join(rng.choice(found, 2))
        if len(made) <= 4 and made not in found:
            found.append(made)
    return {piece: -float(i) for i, piece in enumerate(found[5:] + letters)}


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_joined_by_their_scores(tmp_path, pieces, prefix):
    tokens = ["<unk>", "<s>", "</s>", "<turn>", *BYTES, *pieces]
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    scores = [0.0] * (len(tokens) - len(pieces)) + list(pieces.values())
    said = {"token_scores": scores, "bos_token_id": 1, "add_space_prefix": prefix}
    made = weights.tokenizer(file(tmp_path, "llama", tokens, types, **said))
    rng, letters = np.random.default_rng(1), list("abcd  é漢")
    for size in rng.integers(1, 30, 60):
        text = "".join(rng.choice(letters, size))
        as_pieces = (SPACE if prefix else "") + text.replace(" ", SPACE)
        found = made.encode(text)
        assert found.tokens == ["<s>", *joined(pieces, as_pieces)], text
        assert made.decode(found.ids) == text
    # Before a text stands <s>, and in it are whole tokens, which no merge reaches.
    assert made.encode("ab<turn>").tokens[-1] == "<turn>"
    assert made.encode("a</s>").tokens[-1] == "</s>" and made.decode([2]) == ""


def cut(place: Path, pre: str, text: str) -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    said = {"tokenizer_pre": pre, "token_merges": ["a b"], "bos_token_id": 0}
    tokens = [*alphabet, "ab"]
    made = weights.tokenizer(file(place, "gpt2", tokens, [NORMAL] * len(tokens), **said))
    shown = made.normalizer.normalize_str(text) if made.normalizer else text
    return [part.replace("Ġ", " ") for part, _ in made.pre_tokenizer.pre_tokenize_str(shown)]


@pytest.mark.parametrize(
    "pre, text, want",
    [
        # Llama 3: digits by threes, and 'S as 's.
        ("llama-bpe", "It'S 12345 films!", ["It", "'S", " ", "123", "45", " films", "!"]),
        # Qwen: one digit at a time.
        ("qwen2", "It's 123.", ["It", "'s", " ", "1", "2", "3", "."]),
        # GPT-2: digits go with the blank before them, and 'S is no ending.
        ("gpt-2", "It'S 12345!", ["It", "'", "S", " 12345", "!"]),
        # SmolLM and Granite: GPT-2's, digits apart.
        ("smollm", "in 1994", ["in", " ", "1", "9", "9", "4"]),
        ("refact", "in 19", ["in", " ", "1", "9"]),
        # Tekken: words at their capitals.
        ("tekken", "aCase OK", ["a", "Case", " OK"]),
        # A blank belongs to the word behind it, and the others stay together.
        ("dbrx", "a   b", ["a", "  ", " b"]),
    ],
)
def test_texts_are_cut_as_the_family_cuts_them(tmp_path, pre, text, want):
    assert cut(tmp_path, pre, text) == want


def test_qwen_composes_characters(tmp_path):
    assert cut(tmp_path, "qwen2", "e\u0301") == cut(tmp_path, "qwen2", "\u00e9")


def test_a_text_is_opened_and_closed_as_the_file_says(tmp_path):
    tokens, types = ["<s>", "</s>", "a", "b", "ab"], [CONTROL, CONTROL, NORMAL, NORMAL, NORMAL]
    said = {"token_merges": ["a b"], "bos_token_id": 0, "eos_token_id": 1, "tokenizer_pre": "gpt-2"}
    (tmp_path / "closed").mkdir()
    made = weights.tokenizer(file(tmp_path, "gpt2", tokens, types, **said))
    assert made.encode("abab").ids == [4, 4]
    said |= {"add_bos_token": True, "add_eos_token": True}
    closed = weights.tokenizer(file(tmp_path / "closed", "gpt2", tokens, types, **said))
    assert closed.encode("ab").ids == [0, 4, 1]
    assert weights.begun(closed, ["ab"]) == [[0, 4]]


def test_a_word_that_is_a_token_is_not_merged(tmp_path):
    """Llama 3 has words that its merges never make."""
    tokens = ["a", "b", "c", "abc", "ab"]
    said = {"token_merges": ["a b"], "tokenizer_pre": "llama-bpe", "bos_token_id": 0}
    made = weights.tokenizer(file(tmp_path, "gpt2", tokens, [NORMAL] * 5, **said))
    assert made.encode("abc", add_special_tokens=False).tokens == ["abc"]
    assert made.encode("abcc", add_special_tokens=False).tokens == ["ab", "c", "c"]


@pytest.mark.parametrize("kind, pre", [("gpt2", "never"), ("t5", "default"), ("bert", "default")])
def test_what_is_not_known_is_refused(tmp_path, kind, pre):
    said = {"tokenizer_pre": pre, "token_merges": ["a b"]}
    place = file(tmp_path, kind, ["a", "b"], [NORMAL, NORMAL], **said)
    with pytest.raises(ValueError, match=rf"of kind {kind}/{pre}, which is not known; put the tok"):
        weights.tokenizer(place)


def test_a_tokenizer_that_drops_blanks_is_refused(tmp_path):
    said = {"remove_extra_whitespaces": True, "token_scores": [0.0, 0.0]}
    place = file(tmp_path, "llama", ["a", "b"], [NORMAL, NORMAL], **said)
    with pytest.raises(ValueError, match="takes blanks out of texts"):
        weights.tokenizer(place)
