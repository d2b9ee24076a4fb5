"""Laws of every compressor: round trip, bytes, arrival, vmap, untouched rows, claims, one trace."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compressors_registry import COMPRESSORS, Law
from rounds import FIRST, now
from updates import ADVERSARIAL, flat, model_of, update
from worlds import compiled as fast
from worlds import same

from fedjax_rec import compress, trees, wire
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Packet
from fedjax_rec.wire import is_node

KEY = jax.random.key(3)
NAMES = pytest.mark.parametrize("name", COMPRESSORS)


class Compiled:
    """A compressor in its first round, with one compiled encode and decode for all tests."""

    def __init__(self, law: Law):
        self.law = law
        self.compressor = law.make()
        self.traces = 0
        self.memory = self.compressor.init(model_of(update()))
        self.encode = fast(self._encode)
        self.decode = fast(lambda packet, like: self.compressor.decode(packet, like, FIRST))

    def _encode(self, key, memory, x, now=FIRST):
        self.traces += 1
        memory, packet = self.compressor.encode(key, memory, x, now)
        return memory, packet, wire.nbytes(packet)

    def back(self, x, key=KEY):
        return self.decode(self.encode(key, self.memory, x)[1], x)


@functools.cache
def compiled(name: str) -> Compiled:
    return Compiled(COMPRESSORS[name])


def blank(x):
    """As `x` in structure, shapes and dtypes, with nothing of what it holds."""
    return jax.tree.map(jnp.zeros_like, x)


@NAMES
def test_round_trip_keeps_structure_and_bound(name):
    x, law = update(), COMPRESSORS[name]
    back = compiled(name).back(x)
    nodes = functools.partial(jax.tree.structure, is_leaf=is_node)
    assert nodes(back) == nodes(x)
    for before, after in zip(flat(x), flat(back), strict=True):
        assert after.dtype == before.dtype and after.shape == before.shape
        assert np.isfinite(after).all()
        if law.error is not None:
            assert np.abs(after - before).max() <= law.error * np.abs(before).max() * 1.0001
    for before, after in zip(
        *(jax.tree.leaves(t, is_leaf=is_node) for t in (x, back)), strict=True
    ):
        if isinstance(before, RowsUpdate):
            assert isinstance(after, RowsUpdate) and (after.ids is None) == (before.ids is None)
            assert after.size == before.size


@NAMES
@pytest.mark.parametrize("touched", [0, 1, 7])
def test_bytes_are_those_of_the_message(name, touched):
    this = compiled(name)
    _, packet, counted = this.encode(KEY, this.memory, update(touched))
    assert int(counted) == int(wire.nbytes(packet)) == len(wire.to_bytes(packet))


@NAMES
@pytest.mark.parametrize("touched", [0, 7])
def test_what_arrives_decodes_to_the_same_update(name, touched):
    """From the bytes, with a `like` that holds nothing but shapes."""
    this, x = compiled(name), update(touched)
    _, packet, _ = this.encode(KEY, this.memory, x)
    arrived = wire.from_bytes(wire.to_bytes(packet), packet)
    received = this.compressor.decode(jax.tree.map(jnp.asarray, arrived), blank(x), FIRST)
    for a, b in zip(flat(received), flat(this.decode(packet, x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6 * max(1e-30, np.abs(b).max()))
    same(this.decode(packet, blank(x)), this.decode(packet, x))


@NAMES
def test_vmap_agrees_with_one_client_at_a_time(name):
    this = compiled(name)
    several = [update(touched, seed) for seed, touched in enumerate((2, 0, 9))]
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(3))

    @fast
    def together(keys, stacked):
        def whole(key, x):
            memory, packet, sent = this._encode(key, this.memory, x)
            return memory, this.compressor.decode(packet, x, FIRST), sent

        return jax.vmap(whole)(keys, stacked)

    memory, back, sent = together(keys, jax.tree.map(lambda *x: jnp.stack(x), *several))
    for i, x in enumerate(several):
        alone, packet, counted = this.encode(keys[i], this.memory, x)
        at = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        assert int(sent[i]) == int(counted)
        for a, b in zip(flat(at(back)), flat(this.decode(packet, x)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(at(memory)), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@NAMES
def test_untouched_rows_stay_zero(name):
    x, back = update(), compiled(name).back(update())
    for part in ("item", "tail"):
        live = np.asarray(back[part].live)
        assert not np.asarray(back[part].values)[~live].any()
        ids = np.arange(live.size) if back[part].ids is None else np.asarray(back[part].ids)
        mine = np.arange(37) if x[part].ids is None else np.asarray(x[part].ids)
        touched = set(mine[np.asarray(x[part].live)].tolist())
        assert set(ids[live].tolist()) <= touched and len(set(ids[live])) == live.sum()


@NAMES
def test_an_update_of_zeros_comes_back_as_zeros(name):
    for touched in (0, 7):
        back = compiled(name).back(update(touched, draw=np.zeros))
        assert all((leaf == 0).all() for leaf in flat(back))


@NAMES
def test_encoding_is_one_trace_and_a_function_of_its_key(name):
    this = compiled(name)
    same(*(this.encode(KEY, this.memory, update(), FIRST) for _ in range(2)))
    before = this.traces
    for seed in range(3):
        this.encode(jax.random.key(seed), this.memory, update(seed + 1, seed), now(seed))
    assert this.traces == before


def refilled(packet: Packet, seed: int) -> Packet:
    """`packet` with other numbers in its body, where there are some; all else stays."""
    rng = np.random.default_rng(seed)

    def one(node):
        x = node.values if is_node(node) else node
        if is_node(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            return node
        drawn = jnp.asarray(rng.normal(size=x.shape), x.dtype)
        if not is_node(node):
            return drawn
        return replace(node, values=jnp.where(trees.leading(node.live, x), drawn, 0))

    return replace(packet, body=jax.tree.map(one, packet.body, is_leaf=is_node))


def off_linear(decode, packet: Packet) -> float:
    """How far decode(sum_k w_k body_k) is from sum_k w_k decode(body_k), of bodies of one side."""
    weights, bodies = (0.5, 3.0, -1.25), [refilled(packet, k) for k in range(3)]

    def summed(*nodes):
        if not is_node(nodes[0]):
            return sum(w * x for w, x in zip(weights, nodes, strict=True)).astype(nodes[0].dtype)
        return replace(nodes[0], values=summed(*(node.values for node in nodes)))

    body = jax.tree.map(summed, *(p.body for p in bodies), is_leaf=is_node)
    together = flat(decode(replace(packet, body=body)))
    alone = [flat(decode(p)) for p in bodies]
    wanted = [
        sum(w * x for w, x in zip(weights, xs, strict=True)) for xs in zip(*alone, strict=True)
    ]
    return max(np.abs(a - b).max(initial=0) for a, b in zip(together, wanted, strict=True))


@NAMES
def test_linear_compressors_decode_sums(name):
    this, law = compiled(name), COMPRESSORS[name]
    assert this.compressor.linear == law.linear
    if law.linear:
        x = update()
        packet = this.encode(KEY, this.memory, x)[1]
        assert off_linear(lambda p: this.decode(p, x), packet) < 1e-4


@pytest.mark.parametrize("name", ["count_sketch(3, 20)", "truncated_svd(2)"])
def test_others_do_not(name):
    this, x = compiled(name), update()
    packet = this.encode(KEY, this.memory, x)[1]
    assert off_linear(lambda p: this.decode(p, x), packet) > 0.1


def test_bodies_are_summed_where_nothing_beside_them_is_a_client_s_own():
    x = update()
    dense, rows = {"kernel": x["kernel"]}, {"item": x["item"]}

    def summed(compressor, x):
        encode = lambda key, x: compressor.encode(key, compressor.init(x), x, FIRST)[1]
        return compress.adds_up(compressor, jax.eval_shape(encode, KEY, x))

    for lossless in (compress.identity(), compress.seeded_low_rank(2)):
        assert summed(lossless, dense) and summed(lossless, rows)
    assert summed(compress.masked(), dense) and not summed(compress.masked(), rows)
    assert not summed(compress.rotate(), dense)  # a seed of the client's own
    assert not summed(compress.truncated_svd(2), dense)
    assert not summed(compress.ef21(compress.identity()), dense)


def error(before, after, whole: bool) -> list[tuple[float, float]]:
    """(|C(x) - x|^2, |x|^2) of every node, or of all of them together; in float64."""
    pairs = []
    for x, y in zip(flat(before), flat(after), strict=True):
        x, y = x.astype(np.float64), y.astype(np.float64)
        pairs.append((((y - x) ** 2).sum(), (x**2).sum()))
    return [tuple(np.sum(pairs, 0))] if whole else pairs


@NAMES
def test_whatever_comes_stays_finite_and_contracts_as_claimed(name):
    law = COMPRESSORS[name]
    for case, draw in [*ADVERSARIAL.items(), ("normal", None)]:
        x = update(draw=draw)
        if max(np.abs(leaf).max() for leaf in flat(x)) > law.largest:
            continue
        back = compiled(name).back(x)
        assert all(np.isfinite(leaf).all() for leaf in flat(back)), case
        for off, norm in error(x, back, law.whole) if law.contraction is not None else ():
            # XLA flushes denormals to zero: then nothing is left, of almost nothing.
            assert off <= law.contraction * norm * (1 + 1e-4) + 1e-12 * norm + 1e-70, case


SAMPLES = 12000


def many(this: Compiled, x):
    """[SAMPLES, ...] decoded updates under as many keys, every node flat."""

    def one(key):
        packet = this.compressor.encode(key, this.memory, x, FIRST)[1]
        back = this.compressor.decode(packet, x, FIRST)
        return [
            node.values if is_node(node) else node
            for node in jax.tree.leaves(back, is_leaf=is_node)
        ]

    keys = jax.random.split(jax.random.key(11), SAMPLES)
    return [np.asarray(v, np.float64).reshape(SAMPLES, -1) for v in fast(jax.vmap(one))(keys)]


def biased(samples: np.ndarray, x: np.ndarray) -> str | None:
    """What betrays a bias at 5 standard errors: along x, or in any coordinate; None if nothing."""
    along = samples @ x / (x @ x)
    error = standard_error(along)
    if abs(along.mean() - 1) > 5 * error + 1e-5:
        return f"{along.mean() - 1:+.4f} along x, standard error {error:.5f}"
    off = np.abs(samples.mean(0) - x)
    # A coordinate that is sent rarely has few events, of which the sample knows the size at best.
    rare = 10 * np.abs(samples - x).max(0) / len(samples)
    worst = off - 6 * standard_error(samples) - rare - 1e-4 * np.abs(x).max()
    return f"{off[worst.argmax()]:.4f} in one coordinate" if worst.max() > 0 else None


def standard_error(samples: np.ndarray):
    return samples.std(0, ddof=1) / np.sqrt(len(samples))


@pytest.mark.parametrize("name", [n for n, law in COMPRESSORS.items() if law.unbiased])
def test_unbiased_compressors_are(name):
    """The mean over keys, and its second moment, of touched rows, blocks and a matrix."""
    this, law = compiled(name), COMPRESSORS[name]
    x = update()
    inputs = [n.values if is_node(n) else n for n in jax.tree.leaves(x, is_leaf=is_node)]
    for samples, node in zip(many(this, x), inputs, strict=True):
        node = np.asarray(node, np.float64).reshape(-1)
        assert (found := biased(samples, node)) is None, found
        if law.omega is not None:
            off = ((samples - node) ** 2).sum(1) / (node @ node)
            assert off.mean() <= law.omega + 5 * standard_error(off) + 1e-12
        if node.size == 350:
            # Of the matrix there are samples enough to see a bias of 2% as ten standard errors.
            assert 10 * standard_error(samples @ node / (node @ node)) < 0.02


def test_the_bound_rejects_a_bias_of_two_percent():
    x = np.random.default_rng(0).normal(size=200)
    noise = 2 * np.random.default_rng(1).normal(size=(SAMPLES, 200))
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
