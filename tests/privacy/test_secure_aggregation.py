"""Sums under masks against the plain mean, with clients that drop out, faults that are planted, and
bytes against the figures of the papers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import privacy
from fedjax_rec.privacy.fixed_point import grid_of
from fedjax_rec.types import Now, Upload

pytestmark = pytest.mark.usefixtures("compiled_fast")
KEY = jax.random.key(5)
PROTOCOLS = {
    "secagg": privacy.secagg, "secagg_plus": privacy.secagg_plus,
    "light_secagg": privacy.light_secagg,
}  # fmt: skip


def cohort(count: int) -> Now:
    """Ids in no order."""
    ids = np.random.default_rng(3).permutation(3 * count)[:count]
    return Now(jnp.int32(2), (), None, jnp.int32(ids))


def played(hidden, now: Now, x, weights, planted=None):
    """(sent uint32[C, d], mean float32[d], verdicts) of one round; planted: bool[C], of whom the
    server is told wrongly whether they are there."""

    def run(x, weights, wrong):
        def one(client, x):
            packet, _ = hidden.seal.send(
                jax.random.fold_in(KEY, client), x, replace(now, client=client)
            )
            return packet.body

        sent = jax.vmap(one)(now.cohort, x)
        found = hidden.reduce((), Upload(sent, weights, {}), replace(now, client=now.cohort))
        found["there"] = found["there"] ^ wrong
        _, mean, verdicts = hidden.finish(KEY, (), found, now)
        return sent.symbols, mean, verdicts

    wrong = jnp.zeros(len(x), bool) if planted is None else jnp.asarray(planted)
    return jax.device_get(jax.jit(run)(jnp.float32(x), jnp.float32(weights), wrong))


def uploads(count: int, numbers: int, dropped: float):
    rng = np.random.default_rng(count)
    weights = rng.integers(1, 9, count).astype(np.float32)
    weights[rng.permutation(count)[: int(dropped * count)]] = 0
    return rng.uniform(-1, 1, (count, numbers)), weights


@pytest.mark.parametrize(
    ("protocol", "count", "bits"),
    [("secagg", 2, 32), ("secagg", 64, 16), ("secagg_plus", 64, 32), ("light_secagg", 64, 20),
     ("secagg_plus", 1024, 24), ("secagg", 1024, 32)],
)  # fmt: skip
def test_it_is_the_plain_mean_to_a_step_whoever_drops_out(protocol, count, bits):
    x, weights = uploads(count, 3, 0.3)
    hidden = privacy.secure_aggregation(1.0, count, bits, protocol=PROTOCOLS[protocol]())
    sent, mean, verdicts = played(hidden, cohort(count), x, weights)
    step = grid_of("", 1.0, count, bits, None).step
    assert np.abs(mean - x[weights > 0].mean(0)).max() < step + 2e-7
    assert (verdicts == (weights > 0)).all() and sent.max() < 2**bits
    assert np.abs(sent / 2.0**bits - 0.5).std() > 0.1 or count == 2  # not what was uploaded


@pytest.mark.parametrize("there", [True, False])
def test_a_mask_that_is_left_out_is_noticed(there):
    """The server takes somebody for away who is there, or the other way round: masks remain."""
    x, weights = uploads(16, 8, 0.3)
    wrong = np.zeros(16, bool)
    wrong[np.flatnonzero((weights > 0) == there)[0]] = True
    hidden = privacy.secure_aggregation(1.0, 16)
    _, mean, verdicts = played(hidden, cohort(16), x, weights, wrong)
    assert not verdicts.any() and not mean.any()


def test_too_few_open_nothing():
    x, weights = uploads(16, 8, 0.0)
    weights[:8] = 0
    hidden = privacy.secure_aggregation(1.0, 16)  # half is not more than half
    assert not played(hidden, cohort(16), x, weights)[2].any()
    one_away = privacy.secagg_plus(4, threshold=4)  # its neighbours lack one of four
    weights = np.ones(16)
    weights[3] = 0
    hidden = privacy.secure_aggregation(1.0, 16, protocol=one_away)
    assert not played(hidden, cohort(16), x, weights)[2].any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bits_of_an_upload_are_those_of_a_coin(protocol):
    """Of zeros, which would show: chi-square of each bit and of bytes, at a level of 1e-6."""
    zeros, now = np.zeros((6, 8192)), cohort(6)
    hidden = privacy.secure_aggregation(1.0, 6, 16, protocol=PROTOCOLS[protocol]())
    sent = played(hidden, now, zeros, np.ones(6))[0]
    for x in sent[:2]:
        ones = np.array([(x >> b & 1).sum() for b in range(16)])
        assert ((ones - 4096) ** 2 / 2048).sum() < 64.0  # chi-square of 16 degrees
        counts = np.bincount(x >> 8, minlength=256)
        assert ((counts - 32) ** 2 / 32).sum() < 375.0  # of 255
        both = (x[1:] ^ x[:-1]) & 1
        assert abs(both.mean() - 0.5) < 5 / (2 * 8191**0.5)
    assert abs(((sent[0] ^ sent[1]) & 1).mean() - 0.5) < 5 / (2 * 8192**0.5)
    assert (sent.astype(np.uint64).sum(0) % 2**16 != 0).any()  # own masks are left in the sum


def test_rounding_is_unbiased_and_what_is_beyond_the_bound_is_cut_off_and_told():
    grid = grid_of("", 0.5, 100, 16, None)
    x = jnp.full(200_000, 0.3 * grid.step)
    q, _ = grid.rounded(KEY, x)
    mean = np.asarray(grid.signed(q), np.float64).mean()
    assert abs(mean - 0.3) < 5 * (0.21 / 200_000) ** 0.5
    q, beyond = grid.rounded(KEY, jnp.float32([-0.7, 0.5, -0.5, 9.0, 0.0]))
    level = grid.levels
    assert grid.signed(q).tolist() == [-level, level, -level, level, 0]
    assert beyond.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        (
            dict(clients=64, bits=7),
            r"clients=64\): the sum of all clients does not fit; use bits=9",
        ),
        (dict(clients=1024, bits=12, step=0.1), "does not fit; use bits=16"),
        (dict(clients=2**20, bits=32, step=1e-5), "use a larger step or fewer clients"),
        (dict(clients=2, step=1e-9), "use step >= 2.38e-07"),
        (dict(clients=64, bits=33), "use 2 <= bits <= 32"),
        (dict(clients=0), r"clients=0\) is too small"),
        (dict(clients=9, protocol=privacy.secagg(10)), "use threshold <= 9"),
        (dict(clients=10, protocol=privacy.light_secagg(0.8, 0.7)), "a smaller `private`"),
    ],
)
def test_what_cannot_work_is_refused_with_what_does(kwargs, told):
    with pytest.raises(ValueError, match=told):
        privacy.secure_aggregation(1.0, **kwargs)


@pytest.mark.parametrize(("clients", "bits", "step"), [(64, 9, None), (1024, 16, 0.1)])
def test_the_bits_that_are_named_work_and_no_fewer(clients, bits, step):
    privacy.secure_aggregation(1.0, clients, bits, step)
    with pytest.raises(ValueError, match=f"use bits={bits}"):
        privacy.secure_aggregation(1.0, clients, bits - 1, step)


@pytest.mark.parametrize(
    ("n", "numbers", "bits", "expansion"), [(2**10, 2**20, 26, 1.73), (2**14, 2**24, 30, 1.98)]
)
def test_bytes_of_secagg_are_those_of_the_paper(n, numbers, bits, expansion):
    """2 n a_K + (5 n - 4) a_S + m ceil(log2 R) bits of both ways (Bonawitz et al., section 7), and
    the expansion over m numbers of 16 bits that their abstract has."""
    bare = privacy.secagg(sizes=privacy.Sizes(sealing=0, id=0))
    both = sum(sum(f(n, numbers, bits).values()) for f in (bare.up, bare.down))
    assert 8 * both == 2 * n * 256 + (5 * n - 4) * 256
    assert round((8 * both + numbers * bits) / (16 * numbers), 2) == expansion


def test_bytes_of_the_others_by_hand():
    up = privacy.secagg_plus(20).up(1000, 50, 32)
    assert up == {"keys": 64, "shares": 20 * (2 * 32 + 8 + 28), "unmasking": 21 * 32}
    grows = [sum(privacy.secagg_plus().up(n, 50, 32).values()) for n in (2**7, 2**14)]
    assert grows[1] < 2.1 * grows[0]
    # T = 50, U = 70: pieces of 1000 / 20 numbers.
    light = privacy.light_secagg()
    assert light.up(100, 1000, 32) == {
        "keys": 32, "pieces": 99 * (200 + 8 + 28), "unmasking": 200,
    }  # fmt: skip
    assert light.down(100, 1000, 32) == {
        "keys": 99 * 36, "pieces": 99 * 236, "there": 400,
    }  # fmt: skip


def test_all_are_connected_and_neighbours_of_their_neighbours():
    from fedjax_rec.privacy.masks import circle

    found = circle(0, cohort(30), 6)
    near = np.asarray(found.neighbours(jnp.arange(30)))
    assert near.shape == (30, 6) and all(i in near[j] for i in range(30) for j in near[i])
    again = circle(0, replace(cohort(30), cohort=jnp.asarray(cohort(30).cohort)[::-1]), 6)
    np.testing.assert_array_equal(found.ring, again.ring)
    other = circle(0, replace(cohort(30), round=jnp.int32(3)), 6)
    assert (found.ring != other.ring).any()
