"""Evaluation: ranks and ranking metrics on device, rating errors, and the spread over users.

For one user (`jax.vmap` over users):

    found = ranks(scores, targets, excluded)
    values = evaluate_user(metrics(["hr@10", "ndcg@10"]), *found)  # float32[M], NaN: no target
"""

from fedjax_rec.evaluate.beyond import beyond_accuracy
from fedjax_rec.evaluate.bootstrap import auc_difference, auc_interval
from fedjax_rec.evaluate.calibration import calibration
from fedjax_rec.evaluate.direction import lower_is_better
from fedjax_rec.evaluate.distribution import (
    by_activity,
    by_group,
    mean_and_interval,
    quantiles,
    worst_share,
)
from fedjax_rec.evaluate.exposure import exposure
from fedjax_rec.evaluate.item_groups import item_groups
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
    exposure_ratio,
    hit_ratio,
    mean_average_precision,
    metrics,
    mrr,
    ndcg,
    precision,
    recall,
    target_ndcg,
)
from fedjax_rec.evaluate.paired import holm, paired
from fedjax_rec.evaluate.popularity_bias import (
    popularity_deviation,
    popularity_groups,
    popularity_lift,
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
from fedjax_rec.evaluate.ranks import Ranks, ranks, sampled_ranks
from fedjax_rec.evaluate.reliability import Reliability, calibration_error, reliability

__all__ = [
    "Metric",
    "Protocol",
    "Ranks",
    "Reliability",
    "auc",
    "auc_by_group",
    "auc_difference",
    "auc_interval",
    "auc_of_all",
    "beside",
    "beyond_accuracy",
    "by_activity",
    "by_group",
    "calibration",
    "calibration_error",
    "evaluate_examples",
    "evaluate_user",
    "evaluate_users",
    "exposure",
    "exposure_ratio",
    "full_catalogue",
    "hit_ratio",
    "holm",
    "item_groups",
    "labelled",
    "lower_is_better",
    "mean_and_interval",
    "mean_average_precision",
    "metrics",
    "mrr",
    "ndcg",
    "paired",
    "popularity_deviation",
    "popularity_groups",
    "popularity_lift",
    "precision",
    "predict_examples",
    "probe_clients",
    "quantiles",
    "ranks",
    "rating_error",
    "recall",
    "reliability",
    "sampled",
    "sampled_ranks",
    "target_ndcg",
    "worst_share",
]
