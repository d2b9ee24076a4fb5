"""Evaluation: ranks and ranking metrics on device, rating errors, and the spread over users.

For one user (`jax.vmap` over users):

    ranking = ranks_without(scores, targets, seen)
    values = evaluate_user(metrics(["hr@10", "ndcg@10"]), *ranking)  # float32[M], NaN: no target
"""

from fedjax_rec.evaluate.distribution import (
    bootstrap_interval,
    by_activity,
    by_popularity,
    gini_index,
    jain_index,
    mean_and_interval,
    quantiles,
    worst_share,
)
from fedjax_rec.evaluate.explicit import (
    ErrorSum,
    absolute_error,
    mae,
    mean_error,
    rmse,
    root_mean_error,
    squared_error,
)
from fedjax_rec.evaluate.labelled import (
    auc_by_group,
    auc_of_all,
    evaluate_examples,
    labelled,
    predict_examples,
)
from fedjax_rec.evaluate.metrics import (
    Metric,
    auc,
    evaluate_user,
    hit_ratio,
    mean_average_precision,
    metrics,
    mrr,
    ndcg,
    precision,
    recall,
)
from fedjax_rec.evaluate.protocol import (
    Protocol,
    beside,
    evaluate_users,
    full_catalogue,
    probe_clients,
    rating_error,
    sampled,
)
from fedjax_rec.evaluate.ranks import Ranking, ranks, ranks_without, sampled_ranks

__all__ = [
    "ErrorSum",
    "Metric",
    "Protocol",
    "Ranking",
    "absolute_error",
    "auc",
    "auc_by_group",
    "auc_of_all",
    "beside",
    "bootstrap_interval",
    "by_activity",
    "by_popularity",
    "evaluate_examples",
    "evaluate_user",
    "evaluate_users",
    "full_catalogue",
    "gini_index",
    "hit_ratio",
    "jain_index",
    "labelled",
    "mae",
    "mean_and_interval",
    "mean_average_precision",
    "mean_error",
    "metrics",
    "mrr",
    "ndcg",
    "precision",
    "predict_examples",
    "probe_clients",
    "quantiles",
    "ranks",
    "ranks_without",
    "rating_error",
    "recall",
    "rmse",
    "root_mean_error",
    "sampled",
    "sampled_ranks",
    "squared_error",
    "worst_share",
]
