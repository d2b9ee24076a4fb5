"""The mechanism against NumPy: what is clipped, how much noise there is and where, and what is
refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import privacy, rows
from fedjax_rec.aggregate.listed import listed
from fedjax_rec.testing.uploads import CLIENTS, SHARED, WEIGHTS, aggregated, now, uploads

pytestmark = pytest.mark.usefixtures("compiled_fast")
KEY = jax.random.key(5)
NAMES = ("item", "bias")
CLIPS = {
    "whole": lambda bound: privacy.whole(bound),
    "per_leaf": lambda bound: privacy.per_leaf(bound),
    "per_row": lambda bound: privacy.per_row(bound / 2, touched=4),
    "adaptive": lambda bound: privacy.adaptive(bound),
}


def bare(layout: str, **kwargs):
    """Uploads that are updates alone."""
    return replace(uploads(layout, **kwargs), aux={})


def dense(upload) -> list[dict]:
    """Each client's change as arrays; of whole tables less what the server has."""
    update = listed(upload, now(jnp.arange(CLIENTS))).update
    each = jax.vmap(rows.to_dense, in_axes=(rows.map_axes(update),))(update)
    return [{n: np.asarray(each[n][k], np.float64) for n in NAMES} for k in range(CLIENTS)]


def cut(x, bound):
    return x * min(1.0, bound / max(np.linalg.norm(x), 1e-30))


def looped(name: str, client: dict, bound: float) -> dict:
    if name == "per_leaf":
        return {n: cut(x, bound / np.sqrt(2)) for n, x in client.items()}
    if name == "per_row":
        item = np.stack([cut(row, bound / 2) for row in client["item"]])
        client, bound = {"item": item, "bias": cut(client["bias"], bound / 2)}, bound / 2 * 2
    length = np.sqrt(sum((x**2).sum() for x in client.values()))
    return {n: x * min(1.0, bound / length) for n, x in client.items()}


@pytest.mark.parametrize("layout", ["origin", "delta", "ids"])
@pytest.mark.parametrize("name", CLIPS)
def test_without_noise_it_is_the_sum_of_what_is_clipped(name, layout):
    upload = bare(layout)
    made = aggregated(privacy.gaussian_mean(CLIPS[name](1.5), 0.0, clients=10), upload)[1]
    clients = [looped(name, c, 1.5) for c, w in zip(dense(upload), WEIGHTS, strict=True) if w]
    for n in NAMES:
        np.testing.assert_allclose(made[n], sum(c[n] for c in clients) / 10, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", CLIPS)
def test_noise_has_its_deviation_on_every_row_and_leaf(name):
    """Of 4,000 draws each number's is within 6 standard errors, which are 1.1%; all rows of a leaf
    together within .5%, so that 2% too little is seen."""
    z, bound, clients, draws = 0.8, 1.5, 10.0, 4000
    clip = CLIPS[name](bound)
    private = privacy.gaussian_mean(clip, z, clients)
    clear, upload = privacy.gaussian_mean(clip, 0.0, clients), bare("ids")
    one = jax.jit(jax.vmap(lambda key: aggregated(private, upload, key=key)[1]))
    found = one(jax.random.split(KEY, draws))
    mean = aggregated(clear, upload)[1]
    if name == "adaptive":
        z = (z**-2 - (2 * 0.05 * clients) ** -2) ** -0.5
    deviation = z * bound / clients
    for n in NAMES:
        off = np.asarray(found[n]) - np.asarray(mean[n])
        each = np.sqrt((off**2).mean(0)) / deviation
        assert np.abs(each - 1).max() < 6 / np.sqrt(2 * draws)
        assert abs(np.sqrt((off**2).mean()) / deviation - 1) < 4 / np.sqrt(2 * off.size)
        assert np.abs(off.mean(0)).max() < 6 * deviation / np.sqrt(draws)


@pytest.mark.parametrize("name", CLIPS)
def test_no_client_moves_the_sum_by_more_than_the_bound(name):
    """10,000 clients that send numbers of any size, in few rows or all, clipped one by one."""
    bound, many, rng = 0.7, 10_000, np.random.default_rng(0)
    clip, size, width = CLIPS[name](bound), 9, 3
    scale = 10.0 ** rng.uniform(-20, 12, (many, 1, 1))
    values = rng.standard_cauchy((many, size, width)) * scale
    live = rng.random((many, size)) < rng.random((many, 1))
    ids = np.sort(np.argsort(rng.random((many, 31)), 1)[:, :size], 1)
    table = rows.RowsUpdate(
        jnp.float32(values * live[..., None]), jnp.int32(ids), jnp.asarray(live), None, 31
    )
    bias = jnp.float32(rng.standard_cauchy((many, 3)) * scale[:, 0])
    template = bare("ids")
    upload = replace(
        template, update={**template.update, "item": table, "bias": bias},
        weight=jnp.ones(many), metrics={},
    )  # fmt: skip
    factor, update = clip.apply(clip.init(), listed(upload, now(jnp.arange(many))).update)
    sent = np.asarray(update["item"].values, np.float64).reshape(many, -1)
    sent = np.concatenate([sent, np.asarray(update["bias"], np.float64)], 1)
    length = np.linalg.norm(sent * np.asarray(factor, np.float64)[:, None], axis=1)
    assert length.max() <= float(clip.sensitivity(clip.init()))
    assert length.max() > 0.9 * bound


def test_the_bound_follows_the_quantile():
    """C <- C exp(-eta (b - gamma)), b with its noise, which has the deviation that is said."""
    clip = privacy.adaptive(bound=2.0, quantile=0.3, rate=0.5, noise=0.04)
    upload, clients = bare("ids"), 8.0
    private = privacy.gaussian_mean(clip, 0.5, clients)
    one = jax.jit(jax.vmap(lambda key: aggregated(private, upload, key=key)[0]))
    after = np.asarray(one(jax.random.split(KEY, 4000)), np.float64)
    length = [np.sqrt(sum((x**2).sum() for x in c.values())) for c in dense(upload)]
    there = WEIGHTS > 0
    below = ((np.array(length) <= 2.0) - 0.5)[there].sum() / clients + 0.5
    share = 0.3 - np.log(after / 2.0) / 0.5
    assert abs(share.mean() - below) < 5 * 0.04 / np.sqrt(4000)
    assert abs(share.std() / 0.04 - 1) < 5 / np.sqrt(8000)


def test_a_number_of_noise_may_be_traced():
    upload = bare("ids")
    made = lambda z: aggregated(privacy.gaussian_mean(privacy.whole(1.0), z, 10.0), upload)[1]
    for a, b in zip(map(np.asarray, jax.tree.leaves(jax.jit(made)(0.7))),
                    map(np.asarray, jax.tree.leaves(made(0.7))), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: privacy.whole(0.0), r"whole\(bound=0.0\) must be positive"),
        (lambda: privacy.whole(float("inf")), "clips nothing"),
        (lambda: privacy.per_row(1.0, touched=0), r"touched=0\) is too small"),
        (lambda: privacy.adaptive(quantile=1.5), r"quantile=1.5\) is no fraction"),
        (
            lambda: privacy.gaussian_mean(privacy.whole(1.0), -0.1, 10),
            r"noise_multiplier=-0.1\) is too small",
        ),
        (
            lambda: privacy.gaussian_mean(privacy.whole(1.0), 1.0, 0),
            r"clients=0\) must be positive",
        ),
        (
            lambda: privacy.gaussian_mean(privacy.adaptive(noise=0.001), 1.0, 100),
            "is spent on counting clients",
        ),
        (
            lambda: aggregated(privacy.gaussian_mean(privacy.whole(1.0), 1.0, 10), uploads("ids")),
            "clients send 'steps' beside their update",
        ),
    ],
)
def test_what_would_be_no_guarantee_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_the_update_fits_the_model():
    made = aggregated(privacy.gaussian_mean(privacy.whole(1.0), 1.0, 10), bare("ids"))[1]
    assert {n: x.shape for n, x in made.items() if n in NAMES} == {
        "item": SHARED["item"].shape, "bias": (3,)
    }  # fmt: skip
