"""Robust rules against loops in NumPy that know neither rows nor inner products."""

import itertools

import numpy as np
import pytest
from robust_world import ABSENT, CLIENTS, ITEMS, LIARS, WIDTH, flat, made, uploads

from fedjax_rec import aggregate
from fedjax_rec.trees import Frozen

pytestmark = pytest.mark.usefixtures("compiled_fast")
TABLE = ITEMS * WIDTH


def by_coordinate(rule, least=1, floor=1):
    """rule(values of those who said something) of each number."""

    def loop(x, said):
        out = np.zeros(x.shape[1])
        for j in range(x.shape[1]):
            mine = x[said[:, j], j]
            if len(mine) >= max(least, floor if j < TABLE else 1):
                out[j] = rule(mine)
        return out, None

    return loop


def trimmed(values, f):
    return np.sort(values)[f : len(values) - f].mean()


def around(values, kept):
    """The mean of the nearest to the median; of two as near, the smaller."""
    near = np.lexsort((values, np.abs(values - np.median(values))))
    return values[near[:kept]].mean()


def apart(x):
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def krum_scores(x, f):
    near = max(len(x) - f - 2, 1)
    return np.array([np.sort(np.delete(d, k))[:near].sum() for k, d in enumerate(apart(x))])


def of(x, chosen):
    return x[sorted(chosen)].mean(0), sorted(chosen)


def multi_krum(x, f, m):
    return of(x, np.argsort(krum_scores(x, f))[:m])


def weiszfeld(x, nu, steps):
    z = np.zeros(x.shape[1])
    for _ in range(steps):
        b = np.array([1 / max(nu, np.linalg.norm(u - z)) for u in x])
        z = (b[:, None] * x).sum(0) / b.sum()
    return z, None


def bulyan(x, said, f):
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        best = left[int(np.argmin(krum_scores(x[left], f)))] if len(left) > 1 else left[0]
        chosen.append(best)
        left.remove(best)
    rule = by_coordinate(lambda v: around(v, len(v) - 2 * f), 2 * f + 1)
    return rule(x[sorted(chosen)], said[sorted(chosen)])[0], sorted(chosen)


def mda(x, f):
    d = apart(x)
    keep = itertools.combinations(range(len(x)), len(x) - f)
    return of(x, min(keep, key=lambda s: (d[np.ix_(s, s)].max(), d[np.ix_(s, s)].sum())))


def clipped(x, bound):
    return np.mean([u * min(1, bound / np.linalg.norm(u)) for u in x], 0), None


def row_clipped(x, bound):
    ends = [*range(0, TABLE + 1, WIDTH), TABLE + 4, TABLE + 7]
    out = np.zeros(x.shape[1])
    for u in x:
        for a, b in itertools.pairwise(ends):
            out[a:b] += u[a:b] * min(1, bound / max(np.linalg.norm(u[a:b]), 1e-30)) / len(x)
    return out, None


def quorum(x, said, f, quantile, budget=None, clients=0.5):
    """By the lower median, or quantile, of each client's own quantile of its rows, the quantile of
    what they say in all, and the soft threshold."""
    out, n = np.zeros(x.shape[1]), len(x)
    norms = np.linalg.norm(x[:, :TABLE].reshape(n, ITEMS, WIDTH), axis=2)
    touched = said[:, :TABLE:WIDTH]
    usual = []
    for k in range(n):
        own = np.sort(norms[k][touched[k]])
        usual.append(own[int((len(own) - 1) * quantile)])
    place = int((n - 1) * clients)
    longest = np.sort(usual)[place]
    spoken = np.array([np.minimum(norms[k][touched[k]], longest).sum() for k in range(n)])
    most = np.inf if budget is None else np.sort(spoken)[int((n - 1) * budget)]
    ends = [*range(0, TABLE + 1, WIDTH), TABLE + 4, TABLE + 7]
    for a, b in itertools.pairwise(ends):
        length = np.linalg.norm(x[:, a:b], axis=1)
        bound = np.sort(usual if a < TABLE else length)[place]
        factor = np.minimum(1, bound / np.maximum(length, 1e-30))
        if a < TABLE:
            factor = factor * np.minimum(1, most / spoken)
        total = (x[:, a:b] * factor[:, None]).sum(0)
        left = 1 - f * bound / max(np.linalg.norm(total), 1e-30)
        out[a:b] = total * max(0, left) / n
    return out, None


def hics(x, bound, share):
    """The first round: the rows that are largest after both clips; what is dense is whole."""
    out = row_clipped(x, bound)[0]
    table = out[:TABLE].reshape(ITEMS, WIDTH)
    norms = np.linalg.norm(table, axis=1)
    usual = norms[norms > 0].mean()
    table = table * np.minimum(1, usual / np.maximum(norms, 1e-30))[:, None]
    size = np.round(512 * np.log2(np.maximum(norms, 1e-18) ** 2))
    first = np.argsort(-size, kind="stable")[: int(np.ceil(share * ITEMS))]
    chosen = np.isin(np.arange(ITEMS), first)
    out[:TABLE] = np.where(chosen[:, None], table, 0).reshape(-1)
    return out, None


def fltrust(x, trusted):
    trust = [max(0, u @ trusted / np.linalg.norm(u) / np.linalg.norm(trusted)) for u in x]
    scaled = [u * np.linalg.norm(trusted) / np.linalg.norm(u) for u in x]
    return np.average(scaled, axis=0, weights=trust), np.flatnonzero(trust)


def centered(x, tau, center=0.0):
    return center + np.mean([(u - center) * min(1, tau / np.linalg.norm(u - center)) for u in x], 0)


def neighbours(x, f):
    """float[n, n]: shares of the mixtures of each client."""
    near = np.argsort(apart(x), 1)[:, : len(x) - f]
    return np.array([[(k in row) / (len(x) - f) for k in range(len(x))] for row in near])


def mixed(x, said, f, rule):
    shares = neighbours(x, f)
    touched = (shares[:, :, None] > 0) & said[None]
    return rule(shares @ x, touched.any(1))[0], None


def foolsgold(x):
    n = len(x)
    cos = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x] for a in x])
    np.fill_diagonal(cos, -np.inf)
    top = cos.max(1)
    for k in range(n):
        for other in range(n):
            if k != other and top[k] < top[other]:
                cos[k, other] *= top[k] / top[other]
    w = np.clip(1 - cos.max(1), 0, 1)
    w /= w.max()
    w[w >= 1] = 0.99
    w = np.clip(np.log(w / (1 - w)) + 0.5, 0, 1)
    return (w[:, None] * x).sum(0) / w.sum(), np.flatnonzero(w)


def dnc(x, f):
    centre = x - x.mean(0)
    along = (centre @ np.linalg.svd(centre)[2][0]) ** 2
    return of(x, np.argsort(along)[: len(x) - f])


def caf(x, f):
    c, least, best = np.ones(len(x)), np.inf, None
    while c.sum() > len(x) - 2 * f:
        mu = (c[:, None] * x).sum(0) / c.sum()
        values, vectors = np.linalg.eigh(((c[:, None] * (x - mu)).T @ (x - mu)) / c.sum())
        if values[-1] < least:
            least, best = values[-1], (mu, np.flatnonzero(c > 0))
        tau = ((x - mu) @ vectors[:, -1]) ** 2
        c = c * (1 - tau / tau.max())
    return best


AHEAD = np.sin(np.arange(TABLE + 7))


def ahead(key, state, now):
    """The root of `fltrust`, which says AHEAD."""
    item, kernel, number = np.split(AHEAD.astype(np.float32), [TABLE, TABLE + 4])
    update = {"item": item.reshape(ITEMS, WIDTH), "kernel": kernel.reshape(2, 2)}
    return state, {**update, "number": number, "base": Frozen(None)}


# name -> (the part, its loop (values, who said them) -> (update, who is taken or None for all)).
RULES = {
    "median": (lambda: aggregate.median(), by_coordinate(np.median, 1, 3)),
    "median, floor 6": (lambda: aggregate.median(6), by_coordinate(np.median, 1, 6)),
    "trimmed_mean": (
        lambda: aggregate.trimmed_mean(2),
        by_coordinate(lambda v: trimmed(v, 2), 5),
    ),
    "trimmed_mean, floor 7": (
        lambda: aggregate.trimmed_mean(1, floor=7),
        by_coordinate(lambda v: trimmed(v, 1), 3, 7),
    ),
    "meamed": (
        lambda: aggregate.meamed(2),
        by_coordinate(lambda v: around(v, len(v) - 2), 5),
    ),
    "geometric_median": (
        lambda: aggregate.geometric_median(0.1, 4),
        lambda x, said: weiszfeld(x, 0.1, 4),
    ),
    "geometric_median, 30 steps": (
        lambda: aggregate.geometric_median(3.0, 30),
        lambda x, said: weiszfeld(x, 3.0, 30),
    ),
    "krum": (lambda: aggregate.krum(2), lambda x, said: multi_krum(x, 2, 1)),
    "multi_krum": (lambda: aggregate.multi_krum(2), lambda x, said: multi_krum(x, 2, 9)),
    "multi_krum, m 4": (
        lambda: aggregate.multi_krum(3, m=4),
        lambda x, said: multi_krum(x, 3, 4),
    ),
    "bulyan": (lambda: aggregate.bulyan(2), lambda x, said: bulyan(x, said, 2)),
    "bulyan, f 1": (lambda: aggregate.bulyan(1), lambda x, said: bulyan(x, said, 1)),
    "mda": (lambda: aggregate.mda(2), lambda x, said: mda(x, 2)),
    "foolsgold": (lambda: aggregate.foolsgold(), lambda x, said: foolsgold(x)),
    "dnc": (lambda: aggregate.dnc(2), lambda x, said: dnc(x, 2)),
    "caf": (lambda: aggregate.caf(2), lambda x, said: caf(x, 2)),
    "norm_bound": (lambda: aggregate.norm_bound(4.0), lambda x, said: clipped(x, 4.0)),
    "row_norm_bound": (
        lambda: aggregate.row_norm_bound(1.5),
        lambda x, said: row_clipped(x, 1.5),
    ),
    "quorum": (
        lambda: aggregate.quorum(0.5),
        lambda x, said: quorum(x, said, 0.5, 0.5),
    ),
    "quorum, of the shortest": (
        lambda: aggregate.quorum(2, 0.2),
        lambda x, said: quorum(x, said, 2, 0.2),
    ),
    "quorum, of most clients": (
        lambda: aggregate.quorum(0.5, 0.8, clients=0.9),
        lambda x, said: quorum(x, said, 0.5, 0.8, clients=0.9),
    ),
    "quorum, with a budget": (
        lambda: aggregate.quorum(0.5, budget=0.3),
        lambda x, said: quorum(x, said, 0.5, 0.5, 0.3),
    ),
    "hics": (lambda: aggregate.hics(1.5, 0.33), lambda x, said: hics(x, 1.5, 0.33)),
    "fltrust": (
        lambda: aggregate.fltrust(aggregate.Root(ahead)),
        lambda x, said: fltrust(x, AHEAD),
    ),
    "centered_clip": (
        lambda: aggregate.centered_clip(4.0),
        lambda x, said: (centered(x, 4.0), None),
    ),
    "nnm, median": (
        lambda: aggregate.mixed(aggregate.nnm(2), aggregate.median(10)),
        lambda x, said: mixed(x, said, 2, by_coordinate(np.median, 1, 10)),
    ),
    "nnm, krum": (
        lambda: aggregate.mixed(aggregate.nnm(4), aggregate.krum(2)),
        lambda x, said: mixed(x, said, 4, lambda y, _: multi_krum(y, 2, 1)),
    ),
    "nnm, norm_bound": (
        lambda: aggregate.mixed(aggregate.nnm(3), aggregate.norm_bound(1.0)),
        lambda x, said: mixed(x, said, 3, lambda y, _: clipped(y, 1.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rules_are_their_loops(name):
    """On a table in both layouts, a dense leaf and one of integers; the absent holds NaN."""
    make, loop = RULES[name]
    rule = make()
    wanted, taken = loop(*flat(uploads("whole")))
    for layout in ("whole", "ids"):
        upload = uploads(layout)
        _, update, verdicts = made(rule, upload)
        np.testing.assert_allclose(update, wanted, rtol=1e-5, atol=1e-5, err_msg=layout)
        if taken is not None:
            real = np.flatnonzero(np.asarray(upload.weight) > 0)
            assert np.flatnonzero(verdicts).tolist() == real[taken].tolist()


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_centered_clipping_remembers_and_forgets(layout):
    """Two rounds are those of the definition; a row that nobody touches in the second is left."""
    rule = aggregate.centered_clip(4.0)
    first, second = (uploads(layout, seed) for seed in (0, 1))
    state, before, _ = made(rule, first)
    (x, said), center = flat(second), np.asarray(before, float)
    _, update, _ = made(rule, second, state)
    somebody = said.any(0)
    np.testing.assert_allclose(
        update, np.where(somebody, centered(x, 4.0, center), 0), rtol=1e-5, atol=1e-5
    )
    assert np.abs(centered(x, 4.0, center) - centered(x, 4.0)).max() > 0.01  # memory matters
    nobody = uploads(layout, 2, absent=range(CLIENTS - 1))  # one client, of some rows
    state, update, _ = made(rule, nobody, state)
    alone = ~flat(nobody)[1].any(0)
    assert np.abs(center[alone]).max() > 0.01 and not np.asarray(update)[alone].any()
    kept = np.concatenate([np.asarray(state[k].values if k == "item" else state[k]).reshape(-1)
                           for k in ("item", "kernel", "number")])  # fmt: skip
    np.testing.assert_array_equal(kept, update)


def test_buckets_are_drawn_by_clients_and_not_by_slots():
    """Means of buckets of two: another order of the same ids is the same, other keys are others."""
    import jax

    rule = aggregate.mixed(aggregate.bucketing(2), aggregate.krum(1))
    upload = uploads("whole", absent=())
    x, _ = flat(upload)
    pairs = {
        tuple(np.round((x[a] + x[b]) / 2, 4)): {a, b}
        for a, b in itertools.combinations(range(CLIENTS), 2)
    }
    found = []
    for seed in range(4):
        _, update, verdicts = made(rule, upload, key=jax.random.key(seed))
        found.append(pairs[tuple(np.round(np.asarray(update, float), 4))])
        assert set(np.flatnonzero(verdicts)) == found[-1]
    assert len(set(map(tuple, map(sorted, found)))) > 1
    turned = np.roll(np.arange(CLIENTS), 5)
    take = lambda tree: jax.tree.map(lambda a: a[turned], tree)
    one = made(rule, upload)[1]
    other = made(rule, take(upload), ids=jax.numpy.int32(turned))[1]
    np.testing.assert_allclose(other, one, atol=1e-6)


def test_buckets_are_all_clients_once():
    import jax
    import jax.numpy as jnp

    there = jnp.arange(CLIENTS) != ABSENT
    shares = aggregate.bucketing(3).mix(jax.random.key(0), (), there, jnp.arange(CLIENTS))
    assert np.asarray((shares > 0).sum(1)).tolist() == [3, 3, 3, 2]
    assert np.asarray((shares > 0).sum(0)).tolist() == np.asarray(there, int).tolist()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)


def test_dnc_looks_at_a_share_and_keeps_who_is_in_no_round_out():
    """With f = 2 in each of five draws of a third: more than two are out, and the liars are."""
    whole, some = (
        np.asarray(made(rule, uploads("ids"))[2])
        for rule in (aggregate.dnc(2), aggregate.dnc(2, share=0.3, times=5))
    )
    assert set(LIARS) <= set(np.flatnonzero(whole == 0)) and (whole == 0).sum() == 3
    assert set(LIARS) <= set(np.flatnonzero(some == 0)) and 3 < (some == 0).sum() < CLIENTS


def test_rows_of_few_belong_to_nobody():
    """Three attackers among the four clients of a row own its mean; not that of a floor of 7, of
    trimming, nor of a row clipped over all clients."""
    upload = uploads("whole", absent=())
    item = upload.update["item"]
    upload.update["item"] = item.__class__(
        item.values.at[:3, 3].set(10.0), None, item.live, None, ITEMS
    )
    row = lambda rule: np.abs(np.asarray(made(rule, upload)[1])[3 * WIDTH : 4 * WIDTH]).max()
    assert row(aggregate.per_row()) > 5 and row(aggregate.median(1)) > 9
    assert row(aggregate.median(7)) == 0 and row(aggregate.trimmed_mean(3)) == 0
    assert row(aggregate.row_norm_bound(0.1)) <= 0.1 * 4 / CLIENTS
