"""The decoder against NumPy, transformers and itself: sizes, loading, generating.

Reference numbers of SmolLM2 are those of transformers 5.24.0 with torch 2.14.1 on a CPU in float32:
`AutoModelForCausalLM.from_pretrained(folder, gguf_file=..., dtype=torch.float32)`, its logits of
`TEXT`, and its greedy `generate`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import weights
from fedjax_rec.models import generate, llama, load_llama
from fedjax_rec.models.transformers import lora as adapters
from fedjax_rec.models.transformers.families.architecture import BEFORE, ENDS, KERNEL_NAMES
from fedjax_rec.models.transformers.families.llama import LlamaSize

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_llama

NAMES = KERNEL_NAMES | BEFORE
SIZE = LlamaSize(50, 24, 40, 3, 6, 2, 4, theta=100.0, tied=False)
TIED = LlamaSize(50, 24, 40, 2, 3, 3, 8)
TEXT = (
    "Federated learning trains a model on many devices without moving their data. Each device "
    "computes an update from its own examples, and a server averages the updates. In 1995, Toy "
    "Story was the first film made wholly by computers; it cost 30 million dollars and earned "
    "373 million."
)
forward = nnx.jit(lambda model, tokens: model(tokens))


pytestmark = pytest.mark.usefixtures("compiled_fast")


def tiny(size=SIZE, seed=0):
    """A decoder whose norms scale too, so that a forgotten one shows."""
    model = llama(nnx.Rngs(seed), size)
    draw = np.random.default_rng(seed)
    for norm in (model.layers.before_attention, model.layers.before_inner, model.norm):
        norm.scale[...] = jnp.float32(draw.uniform(0.5, 1.5, norm.scale.shape))
    return model


def by_hand(size: LlamaSize, w: dict[str, np.ndarray], tokens) -> np.ndarray:
    """Logits [T, V] in float64, head by head and place by place."""
    norm = lambda x, s: x / np.sqrt((x * x).mean(-1, keepdims=True) + size.eps) * s
    d, half = size.head_width, size.head_width // 2
    w = {name: np.float64(x) for name, x in w.items()}
    x = w[ENDS["tokens"] + ".weight"][tokens]

    def turn(vector, place):
        out = np.empty(d)
        for i in range(half):
            angle = place * size.theta ** (-2 * i / d)
            turned = complex(vector[i], vector[i + half]) * np.exp(1j * angle)
            out[i], out[i + half] = turned.real, turned.imag
        return out

    for i in range(size.layers):
        layer = {n: w[f"model.layers.{i}.{theirs}.weight"] for n, theirs in NAMES.items()}
        y = norm(x, layer["before_attention"])
        q, k, v = (y @ layer[n].T for n in ("query", "key", "value"))
        mixed = np.zeros_like(q)
        for h in range(size.heads):
            g = h // (size.heads // size.key_heads)
            mine, shared = slice(h * d, h * d + d), slice(g * d, g * d + d)
            for t in range(len(tokens)):
                query = turn(q[t, mine], t)
                s = [query @ turn(k[u, shared], u) / np.sqrt(d) for u in range(t + 1)]
                p = np.exp(s - np.max(s))
                mixed[t, mine] = p / p.sum() @ v[: t + 1, shared]
        x = x + mixed @ layer["output"].T
        y = norm(x, layer["before_inner"])
        gate = y @ layer["gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["up"].T)) @ layer["down"].T
    last, head = w[ENDS["norm"] + ".weight"], w.get(ENDS["head"] + ".weight")
    return norm(x, last) @ (w[ENDS["tokens"] + ".weight"] if head is None else head).T


@pytest.mark.parametrize("size", [SIZE, TIED], ids=["grouped", "tied"])
def test_logits_equal_the_formula(size):
    model, tokens, some = tiny(size), jnp.int32([7, 3, 3, 49, 0, 12, 7]), np.array([3, 41])
    want = by_hand(size, tiny_llama.tensors(model), np.asarray(tokens))
    both = nnx.jit(lambda m, t: (m(t), m.logits(m.hidden(t), some)))(model, tokens)
    np.testing.assert_allclose(both[0], want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(both[1], want[:, some], rtol=1e-3, atol=1e-4)


def test_later_tokens_change_nothing_before_them():
    model = tiny()
    one, other = forward(model, jnp.int32([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]]))
    np.testing.assert_allclose(one[:3], other[:3], rtol=1e-5, atol=1e-6)
    assert np.abs(one[3] - other[3]).max() > 1e-3


def test_recomputed_layers_give_the_same_gradients():
    model, tokens = tiny(), jnp.arange(6)

    def slope(model):
        return nnx.jit(nnx.grad(lambda m: (m(tokens) ** 2).mean()))(model)

    plain = slope(model)
    model.remat = True
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(slope(model)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def greedy(model, prompt, count):
    """Token by token, with the whole text computed anew for each."""
    text = list(prompt)
    for _ in range(count):
        padded = jnp.int32(text + [0] * (16 - len(text)))
        text.append(int(jnp.argmax(forward(model, padded)[len(text) - 1])))
    return text[len(prompt) :]


def test_the_cache_continues_as_the_whole_text_would():
    model, prompts = tiny(), [[4, 9], [31, 2, 5, 17, 8], [1]]
    want = [greedy(model, prompt, 6) for prompt in prompts]
    assert len({tuple(w) for w in want}) == 3
    assert generate(model, prompts, 6) == want
    stop = want[1][3]
    cut = [w[: w.index(stop)] if stop in w else w for w in want]
    assert generate(model, prompts, 6, stop=stop) == cut
    with pytest.raises(ValueError, match="empty prompt"):
        generate(model, [[1], []], 2)


def test_adapters_attach_and_start_where_the_base_is():
    model, tokens = tiny(), jnp.arange(5)
    before = forward(model, tokens)
    model = adapters.lora(adapters.freeze(model), nnx.Rngs(1), "layers.query|layers.value", rank=2)
    np.testing.assert_allclose(forward(model, tokens), before, rtol=1e-6)
    shapes = {x.shape for x in jax.tree.leaves(nnx.state(model, nnx.Param))}
    assert shapes == {(3, 24, 2), (3, 2, 24), (3, 2, 8)}


@pytest.mark.parametrize("size", [SIZE, TIED], ids=["grouped", "tied"])
def test_a_hugging_face_folder_loads(tmp_path, size):
    model, tokens = tiny(size), jnp.int32([1, 40, 7])
    place = tiny_llama.write(tmp_path, model)
    loaded = load_llama(place)
    assert loaded.size == size.decoder()
    want = forward(model, tokens)
    np.testing.assert_allclose(forward(loaded, tokens), want, rtol=1e-5, atol=1e-6)
    half = load_llama(place, "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(forward(half, tokens), want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "lama"}, r"model_type='lama'.*did you mean 'llama'.*mistral, qwen2"),
        ({"hidden_act": "swish"}, "hidden_act='swish'"),
        ({"rope_scaling": {"rope_type": "ntk", "factor": 8.0}}, "rope has rope_type='ntk'"),
        ({"num_hidden_layers": 4}, r"lacks model\.layers\.3"),
        ({"hidden_size": 20}, r"has shape \("),
        ({"num_attention_heads": 5}, "heads=5, key_heads=2"),
    ],
)
def test_what_is_no_llama_is_refused(tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_llama(tiny_llama.write(tmp_path, tiny(), **changes))
    with pytest.raises(ValueError, match="dtype='int3'"):
        load_llama(tmp_path, "int3")


@pytest.fixture(scope="module")
def smollm2():
    jax.config.update("jax_disable_most_optimizations", False)
    pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    try:
        folder = weights.find("smollm2")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return load_llama("smollm2"), weights.tokenizer(folder)


@pytest.mark.slow
def test_smollm2_computes_what_transformers_computes(smollm2):
    model, tokenizer = smollm2
    ids = tokenizer.encode(TEXT).ids
    assert len(ids) == 65 and ids[:4] == [54, 277, 6593, 1380] and ids[-3:] == [35, 2215, 30]
    logits = np.asarray(forward(model, jnp.int32(ids)), np.float64)
    last = [8.20623, -1.44853, 6.05488, -1.3613, 5.07313, -0.27195, 5.94467, 0.56991]
    scale = np.abs(logits[-1]).max()
    np.testing.assert_allclose(logits[-1][::6144], last, atol=1e-4 * scale)
    of_the = [24.6877, 21.25723, 15.10451, 21.30626, 21.20679, 8.6894, 21.59605, 22.89141]
    np.testing.assert_allclose(logits[:8, 260], of_the, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits[-1]), 781.0007340, rtol=1e-5)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    perplexity = np.exp(-chances[np.arange(64), ids[1:]].mean())
    np.testing.assert_allclose(perplexity, 57.8711915, rtol=1e-4)


@pytest.mark.slow
def test_smollm2_continues_as_transformers_does(smollm2):
    model, tokenizer = smollm2
    prompts = ["The capital of France is", "Once upon a time there was a"]
    made = generate(model, [tokenizer.encode(p).ids for p in prompts], 16)
    assert made == [
        [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33],
        [1165, 3102, 32047, 826, 827, 8718, 30, 378, 3102, 436, 3365, 990, 253, 4248, 8201, 3365],
    ]
    assert tokenizer.decode(made[0]).startswith(" Paris.")
    marked = "<|im_start|>user\nHi 42!<|im_end|>"
    assert tokenizer.encode(marked).ids == [1, 4093, 198, 26843, 216, 36, 34, 17, 2]
