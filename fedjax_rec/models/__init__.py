"""Recommender models: flax.nnx modules whose variables say where they live, or plain functions."""

from .attributed import attributed, ifedrec
from .central import (
    Fit,
    Histories,
    attribute_neighbours,
    attribute_popularity,
    attribute_scores,
    attribute_weights,
    ease,
    ials,
    item_knn,
    item_scores,
    item_weights,
    lightgcn,
    popularity,
)
from .click.dcn import dcn
from .click.deepfm import deepfm
from .click.dlrm import dlrm
from .click.embeddings import Embedding, hashed, quotient_remainder, rows_each
from .click.feature_clicks import feature_dcn, feature_deepfm
from .click.logistic import logistic
from .contrastive import contrastive
from .factorization.biased_mf import biased_mf
from .factorization.feature_mf import feature_mf
from .factorization.fedkd import fedkd, mutual
from .factorization.fedpergnn import fedpergnn
from .factorization.fedrap import fedrap
from .factorization.gpfedrec import gpfedrec, gpfedrec_rows, guided
from .factorization.hetefedrec import hetefedrec
from .factorization.lightfr import lightfr
from .factorization.mf import fedmf
from .factorization.ncf import gmf, mlp, neumf
from .factorization.pfedrec import pfedrec
from .factorization.two_tower import two_tower
from .grouped import f2mf, grouped
from .hybrid import hybrid, hybrid_sasrec
from .lists.fusion import Fusion
from .lists.reciprocal_ranks import reciprocal_ranks
from .lists.reordered import reordered
from .lists.weighted_scores import weighted_scores
from .objectives import Objective, bce, bpr, masked_mean, squared_error
from .placement import frozen_at, private_at, with_core
from .prunable import prunable
from .roles import Frozen, Private, PrivateRows, Rows, from_nnx
from .sequential.bert4rec import bert4rec
from .sequential.gru4rec import gru4rec
from .sequential.hstu import hstu
from .sequential.next_item import (
    ItemLoss,
    cosine,
    full_softmax,
    gbce,
    log_q_softmax,
    sampled_bce,
    sampled_softmax,
)
from .sequential.sasrec import sasrec
from .sequential.text_sasrec import text_sasrec
from .sequential.tiger import tiger
from .sequential.tiger_decoder import tiger_decoder
from .sequential.trie import Trie, beam_search, trie
from .sequential.unisrec import unisrec
from .started import started
from .summed import summed
from .supervised_contrastive import supervised_contrastive
from .text.answers import tallrec, yes_no, yes_no_above
from .text.binary_codes import binary_codes
from .text.calibrated import calibrated
from .text.collm import collm
from .text.judge import Judge, alone, judged
from .text.next_title import after_titles, next_title
from .text.residual_kmeans import residual_kmeans
from .text.rq_vae import Quantiser, rq_vae
from .text.semantic_ids import SemanticIds, semantic_ids, told_apart
from .text.soft_tokens import SoftTokens
from .text.text_encoder import text_encoder
from .text.text_rows import hstu_from_texts, sasrec_from_texts, text_rows
from .text.text_tower import text_and_rows, text_tower
from .text.title_answers import title_answers
from .text.title_likelihood import title_likelihood
from .text.transferred import transferred, transferred_sasrec
from .transformers import layers
from .transformers.bert import BertSizes, random_bert
from .transformers.decoder import Decoder, DecoderSize
from .transformers.encoders import bert, load_encoder
from .transformers.families.llama import LlamaSize, llama
from .transformers.generate import generate
from .transformers.lora import DoRA, LoRA, dora, freeze, lora, merged
from .transformers.peft_read import import_peft
from .transformers.peft_write import export_peft
from .transformers.pretrained import load_decoder, load_llama
from .transformers.quantise import base_nbytes, in_dtype, quantised
from .transformers.sentences import sentences
from .transformers.sides import sides
from .weighted import weighted
from .with_popular import with_popular

__all__ = [
    "BertSizes", "Decoder", "DecoderSize", "DoRA", "Embedding", "Fit", "Frozen", "Fusion",
    "Histories", "ItemLoss", "Judge", "LlamaSize", "LoRA", "Objective", "Private", "PrivateRows",
    "Quantiser", "Rows", "SemanticIds", "SoftTokens", "Trie", "after_titles", "alone",
    "attribute_neighbours", "attribute_popularity", "attribute_scores", "attribute_weights",
    "attributed", "base_nbytes", "bce", "beam_search", "bert", "bert4rec", "biased_mf",
    "binary_codes", "bpr", "calibrated", "collm", "contrastive", "cosine", "dcn", "deepfm", "dlrm",
    "dora", "ease", "export_peft", "f2mf", "feature_dcn", "feature_deepfm", "feature_mf", "fedkd",
    "fedmf", "fedpergnn", "fedrap", "freeze", "from_nnx", "frozen_at", "full_softmax", "gbce",
    "generate", "gmf", "gpfedrec", "gpfedrec_rows", "grouped", "gru4rec", "guided", "hashed",
    "hetefedrec", "hstu", "hstu_from_texts", "hybrid", "hybrid_sasrec", "ials", "ifedrec",
    "import_peft", "in_dtype", "item_knn", "item_scores", "item_weights", "judged", "layers",
    "lightfr", "lightgcn", "llama", "load_decoder", "load_encoder", "load_llama", "log_q_softmax",
    "logistic", "lora", "masked_mean", "merged", "mlp", "mutual", "neumf", "next_title", "pfedrec",
    "popularity", "private_at", "prunable", "quantised", "quotient_remainder", "random_bert",
    "reciprocal_ranks", "reordered", "residual_kmeans", "rows_each", "rq_vae", "sampled_bce",
    "sampled_softmax", "sasrec", "sasrec_from_texts", "semantic_ids", "sentences", "sides",
    "squared_error", "started", "summed", "supervised_contrastive", "tallrec", "text_and_rows",
    "text_encoder", "text_rows", "text_sasrec", "text_tower", "tiger", "tiger_decoder",
    "title_answers", "title_likelihood", "told_apart", "transferred", "transferred_sasrec", "trie",
    "two_tower", "unisrec", "weighted", "weighted_scores", "with_core", "with_popular", "yes_no",
    "yes_no_above",
]  # fmt: skip
