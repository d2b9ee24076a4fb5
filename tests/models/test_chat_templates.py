"""Chat templates, of every place where they lie, and what `apply_chat_template` makes of them."""

import json

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("tokenizers")

from fedjax_rec import data, weights

# As Llama 3 and Gemma have them, in short.
OPENED = (
    "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system comes first') }}{% endif %}\n"
    "<{{ m['role'] }}>{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As SmolLM3 has it: what the assistant says is marked, and JSON is written as it is.
MARKED = (
    "{%- for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}"
    "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
)
SAID = [{"role": "system", "content": "Be é. "}, {"role": "user", "content": "Fargo?"}]


@pytest.fixture
def folder(tmp_path):
    """A tokenizer that opens texts with <s>, as its template does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["?", "<s>", "</s>", "<user>", "<assistant>", "Heat", "Fargo", ":", "Yes", "No"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[1:5])
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def settings(folder, template) -> None:
    said = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**said, "add_bos_token": True, "chat_template": template})
    )


def test_a_conversation_reads_as_the_template_says(folder):
    settings(folder, OPENED)
    # transformers 5.24 makes this of it, to the letter.
    want = "<s><system>Be é.</s>\n<user>Fargo?</s>\n<assistant>"
    assert weights.chat_template(folder)(SAID) == want
    settings(folder, [{"name": "tool", "template": "x"}, {"name": "default", "template": OPENED}])
    assert weights.chat_template(folder)(SAID) == want
    settings(folder, MARKED)
    marked = '{"role": "system", "content": "Be é. "}{"role": "user", "content": "Fargo?"}'
    assert weights.chat_template(folder)(SAID * 2) == marked
    (folder / "chat_template.jinja").write_text(OPENED)
    assert weights.chat_template(folder)(SAID) == want


def test_a_file_of_gguf_has_its_own(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "only.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(OPENED)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert weights.chat_template(tmp_path)(SAID[1:]) == "<s><user>Fargo?</s>\n<assistant>"


def test_prompts_of_a_conversation_are_opened_once(folder):
    """By the template, and not again by the tokenizer."""
    from fedjax_rec.data.sources.prompts import tokens_of

    settings(folder, "{{ bos_token }}{% for m in messages %}<user>{{ m.content }}{% endfor %}")
    made, words = weights.tokenizer(folder), data.as_chat()
    assert words([("Heat", True)], "Fargo") == [{"role": "user", "content": "Heat: Yes\nFargo:"}]
    spaced = data.as_chat(data.prompt_template("{title} : {answer}", "{title} :"))
    told = tokens_of(folder, made, [spaced([("Heat", True)], "Fargo")])
    assert told == [([1, 3, 5, 7, 8, 6, 7], None)]
    placed = data.as_chat(data.prompt_template("{title} : {answer}", "{user} {title} {item} :"))
    told = tokens_of(folder, made, [placed([("Heat", True)], "Fargo")])
    assert told == [([1, 3, 5, 7, 8, 6, 7], (5, 7))]
    assert tokens_of(folder, made, ["Fargo :"]) == [([1, 6, 7], None)]


def test_what_cannot_be_is_said(folder):
    with pytest.raises(ValueError, match="has no chat template; use a model that was tuned"):
        weights.chat_template(folder)
    settings(folder, "{% for %}")
    with pytest.raises(ValueError, match="is no Jinja"):
        weights.chat_template(folder)
    settings(folder, OPENED)
    with pytest.raises(ValueError, match=r"refuses messages of user, system \(a system comes fi"):
        weights.chat_template(folder)(SAID[::-1])
    with pytest.raises(TypeError, match="makes messages itself; give words that make texts"):
        data.as_chat(data.as_chat())([], "Fargo")
