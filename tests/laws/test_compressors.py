"""Laws of every compressor that ships, those of `fedjax_rec.testing`; and what memory is for."""

import jax
import numpy as np
import pytest
from compressors_registry import COMPRESSORS
from rotating import in_turn
from rounds import FIRST, now
from worlds import compiled as fast

from fedjax_rec import compress, testing
from fedjax_rec.testing.bias import biased
from fedjax_rec.testing.decoding import off_linear
from fedjax_rec.testing.updates import flat, model_of, update

KEY = jax.random.key(3)


@pytest.mark.parametrize("name", in_turn(COMPRESSORS, 12))
def test_compressors_keep_their_laws(name):
    law = COMPRESSORS[name]
    testing.check_compressor(law.make(), **law.claims())


@pytest.mark.parametrize("name", COMPRESSORS)
def test_linear_ones_say_so(name):
    assert COMPRESSORS[name].make().linear == COMPRESSORS[name].linear


@pytest.mark.parametrize("name", ["count_sketch(3, 20)", "truncated_svd(2)"])
def test_others_do_not_decode_sums(name):
    compressor, x = COMPRESSORS[name].make(), update()
    packet = compressor.encode(KEY, compressor.init(model_of(x)), x, FIRST)[1]
    assert off_linear(lambda p: compressor.decode(p, x, FIRST), packet) > 0.1


@pytest.mark.parametrize("count", [2000, 12000])
def test_the_bound_rejects_a_bias_of_two_percent(count):
    x = np.random.default_rng(0).normal(size=200)
    size = 2 * (count / 12000) ** 0.5
    noise = size * np.random.default_rng(1).normal(size=(count, 200))
    assert biased(x + noise, x) is None
    assert biased(1.02 * x + noise, x) is not None
    assert biased(x + noise + 0.3 * (np.arange(200) == 7), x) is not None


def rounds(compressor, inner_memory=None, times=6):
    """(sum of updates, sum of what arrived, last memory) over rounds of changing rows."""
    memory = compressor.init(model_of(update()))
    encode, decode = fast(compressor.encode), fast(compressor.decode)
    total, sent = [0.0] * 6, [0.0] * 6
    for t in range(times):
        x = update(touched=3 + t, seed=t)
        memory, packet = encode(jax.random.fold_in(KEY, t), memory, x, now(t))
        total = [a + b for a, b in zip(total, flat(x), strict=True)]
        sent = [a + b for a, b in zip(sent, flat(decode(packet, x, now(t))), strict=True)]
    return total, sent, memory


def coarse():
    """Half of the update goes missing in every round."""
    return compress.leafwise(lambda k, x, real: (0.5 * x, ()), lambda body, side, like: body)


def test_error_feedback_loses_nothing():
    """Everything that was sent, and what is remembered, is the sum of all updates."""
    total, sent, memory = rounds(compress.error_feedback(coarse()))
    places = [
        0,
        5,
        4,
        3,
        2,
        1,
    ]  # nodes are sorted by name: bias, blocks, item, kernel, tail, vector
    for i in range(len(places)):
        error = np.asarray(memory["error"][i]).reshape(np.asarray(total[i]).shape)
        if i == 1:
            continue  # which blocks are live changes, and they are no rows with ids
        np.testing.assert_allclose(np.asarray(sent[i]) + error, total[i], rtol=1e-4, atol=1e-5)
    plain = rounds(coarse())[1]
    missing = np.abs(np.asarray(total[2]) - np.asarray(plain[2])).max()
    assert missing > 0.5 and np.abs(np.asarray(total[2]) - np.asarray(sent[2])).max() < missing


def test_few_remembered_rows_are_those_of_largest_error():
    x = update(touched=9)
    compressor = compress.error_feedback(coarse(), rows=4)
    memory, _ = compressor.encode(KEY, compressor.init(model_of(x)), x, FIRST)
    for part, index in (("item", 2), ("tail", 4)):
        kept = memory["error"][index]
        whole = flat({part: x[part]})[0] * 0.5
        largest = np.sort(np.argsort(-(whole**2).sum(1))[:4])
        assert kept.ids.tolist() == largest.tolist() and bool(kept.live.all())
        np.testing.assert_allclose(kept.values, whole[largest], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: compress.ef21(compress.cast(), rows=4),
        lambda: compress.diana(compress.cast(), 0.5, rows=4),
        lambda: compress.error_feedback(compress.identity(), rows=4),
        lambda: compress.error_feedback(coarse()),
        lambda: compress.momentum_correction(coarse(), rows=4),
    ],
)
def test_what_is_remembered_of_other_rows_is_not_sent(make):
    """Whatever was touched before, a round's packet moves the rows that were touched in it."""
    compressor = make()
    memory = compressor.init(model_of(update()))
    encode, decode = fast(compressor.encode), fast(compressor.decode)
    for t in range(4):
        x = update(touched=4, seed=t)
        memory, packet = encode(KEY, memory, x, now(t))
        back = decode(packet, x, now(t))
        for part in ("item", "tail"):
            assert not np.asarray(back[part].values)[~np.asarray(back[part].live)].any()


def test_error_memory_inside_a_chain_is_refused():
    inside = compress.chain(compress.rotate(), compress.error_feedback(compress.scaled_sign()))
    with pytest.raises(ValueError, match="put error_feedback around the whole chain"):
        inside.init(model_of(update()))


def test_a_schedule_keeps_what_depends_on_the_round_inside():
    """A chain of a seeded basis and a scheduled sparsity has the basis of its round."""
    make = lambda keep: compress.chain(compress.seeded_low_rank(2, 5), compress.top_k(1.0, keep))
    x = {"kernel": update()["kernel"]}
    both = compress.scheduled(make, lambda round: 1.0), make(1.0)
    packets = [part.encode(KEY, part.init(x), x, now(3))[1] for part in both]
    for a, b in zip(jax.tree.leaves(packets[0]), jax.tree.leaves(packets[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    body = both[1].encode(KEY, both[1].init(x), x, now(4))[1].body["kernel"].values
    assert np.abs(body - packets[0].body["kernel"].values).max() > 0.1


def test_a_rule_that_is_no_expression_is_named():
    with pytest.raises(ValueError, match=r"'item\(' is no regular expression"):
        compress.partition({"item(": compress.cast()})


def test_ef21_and_diana_learn_a_constant_update():
    """With the same update in every round both ends agree on it in the end."""
    x = update()
    for make in (compress.ef21, lambda c: compress.diana(c, 0.8)):
        compressor = make(coarse())
        memory, encode = compressor.init(model_of(x)), fast(compressor.encode)
        decode, gaps = fast(compressor.decode), []
        for _ in range(8):
            memory, packet = encode(KEY, memory, x, FIRST)
            back = decode(packet, x, FIRST)
            gaps.append(max(np.abs(a - b).max() for a, b in zip(flat(x), flat(back), strict=True)))
        assert gaps[0] > 0.5 and gaps[-1] < 0.05 * gaps[0]
