"""Recommender models: flax.nnx modules whose variables say where they live, or plain functions."""

from .adapters import DoRA, LoRA, dora, freeze, lora
from .answers import tallrec, yes_no, yes_no_above
from .base import base_nbytes, in_dtype, quantised
from .bert import BertSizes, bert, random_bert, sentences
from .bert4rec import bert4rec
from .central import Fit, ease, ials, item_knn, item_scores, item_weights, popularity
from .dcn import dcn
from .deepfm import deepfm
from .dlrm import dlrm
from .embeddings import Embedding, hashed, quotient_remainder, rows_each
from .fedrap import fedrap
from .generate import generate
from .gpfedrec import gpfedrec, gpfedrec_rows, guided
from .gru4rec import gru4rec
from .hstu import hstu
from .llama import Llama, LlamaSize, llama
from .mf import fedmf
from .mutual import fedkd, mutual
from .ncf import gmf, mlp, neumf
from .next_item import ItemLoss, full_softmax, gbce, sampled_bce, sampled_softmax
from .next_title import after_titles, next_title
from .objectives import Objective, bce, bpr, masked_mean, squared_error
from .pfedrec import pfedrec
from .pretrained import load_llama
from .prunable import prunable
from .rehomed import frozen_at, private_at, with_core
from .roles import Frozen, Private, PrivateRows, Rows, from_nnx
from .sasrec import sasrec
from .started import started
from .text_encoder import text_encoder
from .text_tower import text_and_rows, text_tower
from .unisrec import unisrec

__all__ = [
    "BertSizes", "DoRA", "Embedding", "Fit", "Frozen", "ItemLoss", "Llama", "LlamaSize", "LoRA",
    "Objective", "Private", "PrivateRows", "Rows", "after_titles", "base_nbytes", "bce", "bert",
    "bert4rec", "bpr", "dcn", "deepfm", "dlrm", "dora", "ease", "fedkd", "fedmf", "fedrap",
    "freeze", "from_nnx", "frozen_at", "full_softmax", "gbce", "generate", "gmf", "gpfedrec",
    "gpfedrec_rows", "gru4rec", "guided", "hashed", "hstu", "ials", "in_dtype", "item_knn",
    "item_scores", "item_weights", "llama", "load_llama", "lora", "masked_mean", "mlp", "mutual",
    "neumf", "next_title", "pfedrec", "popularity", "private_at", "prunable", "quantised",
    "quotient_remainder", "random_bert", "rows_each", "sampled_bce", "sampled_softmax", "sasrec",
    "sentences", "squared_error", "started", "tallrec", "text_and_rows", "text_encoder",
    "text_tower", "unisrec", "with_core", "yes_no", "yes_no_above",
]  # fmt: skip
