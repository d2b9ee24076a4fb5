"""Of which metrics the lowest is the best, by the names that records and tables have for them."""

import pytest

from fedjax_rec import evaluate


@pytest.mark.parametrize("prefix", ["", "validation_", "sampled_", "validation_sampled_"])
def test_errors_and_gaps_are_best_where_they_are_lowest(prefix):
    for name in ("rmse", "mae", "loss", "log_loss", "ece", "gap:gender:hr@10"):
        assert evaluate.lower_is_better(prefix + name), name
    for name in ("hr@10", "ndcg@10", "auc", "accuracy", "recall@50"):
        assert not evaluate.lower_is_better(prefix + name), name


def test_measurements_and_names_agree():
    """A protocol says of itself how the best round is chosen, tables go by names."""
    ranking = evaluate.full_catalogue(evaluate.metrics(["hr@10", "auc"]), num_items=100)
    for protocol in (evaluate.rating_error(), ranking):
        for name in protocol.summary_names:
            assert evaluate.lower_is_better(name) is not protocol.larger_is_better, name
