"""The bench of compressors measures what it says: sizes, memory, and every client's work."""

import jax
import jax.numpy as jnp
import pytest
from rounds import FIRST

from fedjax_rec import compress
from fedjax_rec.bench import compress as bench
from fedjax_rec.types import Compressor, Packet


@pytest.fixture(scope="module")
def data():
    return jax.random.normal(jax.random.key(0), (2 * bench.CHUNK, 64, 4))


def test_sizes_and_memory_are_those_of_the_call(data):
    timing, temporary, share = bench.measured(compress.identity(), data)
    assert timing.cpu > 0 and share == pytest.approx(1.0, rel=0.01)
    # What arrives of all clients is the least that the call holds.
    assert data.nbytes <= temporary < 4 * data.nbytes
    assert bench.measured(compress.qsgd(7), data)[2] == pytest.approx(1 / 8, rel=0.1)


def test_the_averaged_form_calls_every_client(data):
    seen = []

    def encode(key, memory, update, now):
        jax.debug.callback(lambda total: seen.append(float(total)), update.sum())
        return memory, Packet(update)

    counting = Compressor(lambda update: (), encode, lambda packet, like, now: packet.body)
    bench.averaged(counting, data)
    jax.effects_barrier()
    want = sorted(float(x) for x in data.sum((1, 2)))
    assert sorted(seen)[:: 1 + bench.TIMES] == pytest.approx(want, abs=1e-4)


@pytest.mark.slow
def test_every_goal_of_the_issue_stands_in_the_table():
    goals = {name: goal for name, (_, goal, _) in bench.COMPRESSORS.items()}
    assert goals["top_k(0.01)"] == 60 and goals["eden(4)"] == 25
    rivals = {rival for _, _, rival in bench.COMPRESSORS.values()} - {""}
    assert len(rivals) == 3
    for make, _, _ in bench.COMPRESSORS.values():
        made = make()
        x = jnp.ones((4, 8))
        packet = made.encode(jax.random.key(0), made.init(x), x, FIRST)[1]
        assert made.decode(packet, x, FIRST).shape == x.shape
