"""Writes small adapters by PEFT beside the checkpoints of make_checkpoints.py, with what PEFT
computes with them, and reads back what fedjax_rec writes.

Run where torch, transformers and peft are, which no test needs (versions go into made_by.json):

    hf/bin/pip install peft
    hf/bin/python tests/models/make_adapters.py

An adapter is a folder of `adapters/`, as `save_pretrained` writes it, and reference.npz: `tokens`
int32[2, T], `logits` [2, T, V] in eager attention, and by the names of tensors the slope of `loss`,
-mean log p of each next token, by A, B and magnitudes (`slope/...`), and the weights of the adapted
layers once merged (`merged/...`), in float32.

    hf/bin/python tests/models/make_adapters.py FOLDER

reads the adapters in FOLDER, which `write_adapters.py` wrote with our logits, by PEFT and says how
far its logits are from ours.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

PLACE, BASES = (Path(__file__).parent / name for name in ("adapters", "checkpoints"))
LENGTH = 8
# Name: (checkpoint, what LoraConfig is given).
ADAPTERS = {
    "llama": ("llama", {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj"]}),
    "llama_head": ("llama", {"r": 3, "lora_alpha": 6, "target_modules": ["lm_head", "up_proj"]}),
    "qwen2": (
        "qwen2",
        {
            "r": 4, "lora_alpha": 6, "use_rslora": True, "lora_dropout": 0.25,
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "k_proj": 3},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5, "down_proj": 2},
        },
    ),
    "gemma2": (
        "gemma2",
        {
            "r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": ["q_proj", "o_proj"],
            "layers_to_transform": [0, 2], "layers_pattern": "layers",
        },
    ),
    "phi3": ("phi3", {"r": 2, "lora_alpha": 4, "target_modules": ["qkv_proj", "down_proj"]}),
}  # fmt: skip


def base(name: str):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        BASES / name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def write(name: str, of: str, said: dict, seed: int) -> None:
    """The adapter of a configuration, drawn, and what is made of it."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **said)
    model = peft.get_peft_model(base(of), config).eval()
    for x in (x for key, x in model.named_parameters() if "lora_" in key):
        drawn = torch.randn_like(x) * x.shape[-1] ** -0.5 if x.ndim == 2 else torch.rand_like(x)
        x.data = (drawn if x.ndim == 2 else x * (0.5 + drawn)).half().float()
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(3, 64, (2, LENGTH)))
    logits = model(tokens).logits
    chances = logits[:, :-1].log_softmax(-1)
    loss = -chances.gather(-1, tokens[:, 1:, None]).mean()
    loss.backward()
    out = {"tokens": tokens.numpy().astype(np.int32), "logits": logits.detach().numpy()}
    out["loss"] = loss.detach().numpy()
    for key, x in model.named_parameters():
        if "lora_" in key:
            saved = key.replace(".default", "")
            saved = saved.removesuffix(".weight") if "magnitude" in key else saved
            out[f"slope/{saved}"] = x.grad.numpy()
    model.save_pretrained(PLACE / name)
    (PLACE / name / "README.md").unlink(missing_ok=True)
    path = PLACE / name / "adapter_config.json"
    told = json.loads(path.read_text())
    told["base_model_name_or_path"] = of
    told["target_modules"] = sorted(told["target_modules"])  # it is a set there
    path.write_text(json.dumps(told, indent=2) + "\n")
    adapted = [key for key, x in model.named_modules() if hasattr(x, "lora_A")]
    merged = model.merge_and_unload()
    for key in adapted:
        key = key.removeprefix("base_model.model.")
        out[f"merged/{key}"] = merged.get_submodule(key).weight.detach().numpy()
    np.savez_compressed(PLACE / name / "reference.npz", **out)
    print(name, sorted(x.name for x in (PLACE / name).iterdir()), float(loss.detach()))


def check(folder: Path) -> None:
    """How far PEFT's logits with the adapters in `folder` are from those beside them."""
    for place in sorted(x for x in folder.iterdir() if x.is_dir()):
        want = np.load(place / "ours.npz")
        name = json.loads((place / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = peft.PeftModel.from_pretrained(base(Path(name).name), place).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(want["tokens"]).long()).logits.numpy()
        off = np.abs(logits - want["logits"]).max() / np.abs(logits).max()
        print(f"{place.name}: {off:.1e} of the largest logit")


if __name__ == "__main__":
    if sys.argv[1:]:
        check(Path(sys.argv[1]))
    else:
        shutil.rmtree(PLACE, ignore_errors=True)
        for seed, (name, (of, said)) in enumerate(ADAPTERS.items()):
            write(name, of, said, seed)
        libraries = (torch, transformers, peft)
        made_by = {one.__name__: one.__version__ for one in libraries}
        (PLACE / "made_by.json").write_text(json.dumps(made_by) + "\n")
