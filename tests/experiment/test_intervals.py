"""Intervals of AUC over users, from what run folders keep, against draws by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedjax_rec.report import intervals

USERS = 20


def written(folder, strength: float, seed: int, order=None, label_of=0):
    """A run whose logits say so much of the labels; order: in which its examples lie."""
    rng = np.random.default_rng(label_of)
    user, labels = np.repeat(np.arange(USERS), 5), (rng.random(5 * USERS) < 0.5).astype(np.float32)
    logits = strength * labels + np.random.default_rng(seed).normal(size=len(labels))
    order = np.arange(len(labels)) if order is None else order
    folder.mkdir()
    np.savez(folder / "predictions.npz", logits=logits[order], labels=labels[order],
             user=user[order])  # fmt: skip
    return SimpleNamespace(folder=folder, logits=logits, labels=labels, user=user)


def row(*runs, auc=0.5):
    return SimpleNamespace(runs=runs, best=lambda metric: np.array([auc]))


def auc(logits, labels):
    apart = logits[labels > 0][:, None] - logits[labels == 0]
    return ((apart > 0) + 0.5 * (apart == 0)).mean()


def test_rows_have_intervals_over_the_users_of_the_test(tmp_path):
    turned = np.concatenate([np.arange(50, 100), np.arange(50)])  # other clients hold the users
    good, poor = written(tmp_path / "a", 3.0, 1), written(tmp_path / "b", 0.3, 2, turned)
    text = "\n".join(intervals.tables([row(good, auc=0.9), row(poor)], ["good", "poor"]))
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()}
    assert f"the {USERS} users of the test" in text and "against `good`" in text
    for name, run in (("good", good), ("poor", poor)):
        assert float(lines[name][1]) == pytest.approx(auc(run.logits, run.labels), abs=1e-4)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(500):
        some = np.concatenate(
            [np.flatnonzero(poor.user == u) for u in rng.integers(0, USERS, USERS)]
        )
        drawn.append(auc(poor.logits[some], poor.labels[some]))
    ends = [float(x) for x in lines["poor"][2].split(" to ")]
    np.testing.assert_allclose(ends, np.quantile(drawn, [0.025, 0.975]), atol=0.03)
    low, high = (float(x) for x in lines["poor"][4].strip("| ").split(" to "))
    assert low < float(lines["poor"][3]) < high < 0
    assert lines["good"][3].strip("| ") == ""


def test_rows_of_other_tests_are_held_against_nobody(tmp_path):
    one, other = written(tmp_path / "a", 1.0, 1), written(tmp_path / "b", 1.0, 1, label_of=7)
    without = SimpleNamespace(folder=tmp_path)
    assert intervals.tables([row(one), row(other), row(without)], ["a", "b", "c"]) == []
    with pytest.raises(ValueError, match="were tested on other examples; compare runs on the same"):
        intervals.difference(row(one), row(other))
    with pytest.raises(ValueError, match=r"has no predictions.npz in all of its runs"):
        intervals.difference(row(one, without), row(one))
    (tmp_path / "a" / "predictions.npz").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"predictions.npz is malformed .*run it again"):
        intervals.difference(row(one), row(other))
