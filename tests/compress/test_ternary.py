"""TernGrad and scaled sign: their errors in closed form. What all quantizers claim is tested in
test_quantize.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec.compress.feedback import error_feedback
from fedjax_rec.compress.ternary import scaled_sign, terngrad

KEY = jax.random.key(6)
NORMAL = np.random.default_rng(1).normal(size=65536).astype(np.float32)


def sent(compressor, x, key=KEY):
    x = jnp.asarray(x, jnp.float32)
    back = compressor.decode(compressor.encode(key, compressor.init(x), x, FIRST)[1], x, FIRST)
    return np.asarray(back, np.float64)


def off(x, back) -> float:
    return ((back - np.float64(x)) ** 2).sum() / (np.float64(x) ** 2).sum()


def test_terngrad_has_the_error_of_its_formula():
    """(s |x|_1 - |x|^2) / |x|^2, and what is sent is -s, 0 or s, s the largest magnitude."""
    x = np.float64(NORMAL)
    size = np.abs(x)
    back = sent(terngrad(), x)
    np.testing.assert_allclose(np.unique(back), np.array([-1, 0, 1]) * size.max(), rtol=1e-6)
    exact = size.max() * size.sum() / (x**2).sum() - 1
    assert off(x, back) == pytest.approx(exact, rel=0.02)
    # At worst, one coordinate of 1 and the others at 1 / (sqrt(d) + 1): (sqrt(d) - 1) / 2.
    worst = np.full(1024, 1 / 33)
    worst[0] = 1
    errors = [off(worst, sent(terngrad(), worst, jax.random.key(i))) for i in range(20)]
    assert np.mean(errors) == pytest.approx((32 - 1) / 2, rel=0.05)


def test_a_clip_is_in_deviations_and_lowers_the_error():
    deviation = math.sqrt((np.float64(NORMAL) ** 2).mean())
    back = sent(terngrad(2.5), NORMAL)
    assert np.abs(back).max() == pytest.approx(2.5 * deviation, rel=1e-5)
    # E |C(x) - x|^2 with s = 2.5 for |x| < s, and (|x| - s)^2 beyond.
    s, size = 2.5 * deviation, np.abs(np.float64(NORMAL))
    exact = np.where(size < s, size * (s - size), (size - s) ** 2).sum() / (size**2).sum()
    assert off(NORMAL, back) == pytest.approx(exact, rel=0.02)
    assert exact < 0.5 * off(NORMAL, sent(terngrad(), NORMAL))
    # Where nothing is beyond the clip it cuts nothing: equal numbers, and clips that are wide.
    np.testing.assert_allclose(sent(terngrad(2.5), np.full(40, -0.7)), -0.7, rtol=1e-6)
    np.testing.assert_array_equal(sent(terngrad(100.0), NORMAL), sent(terngrad(), NORMAL))


def test_scaled_sign_has_the_error_of_its_formula():
    x = np.float64(NORMAL)
    back = sent(scaled_sign(), x)
    np.testing.assert_allclose(back, np.abs(x).mean() * np.sign(x), rtol=1e-5)
    exact = 1 - np.abs(x).sum() ** 2 / (x.size * (x**2).sum())
    assert off(x, back) == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(1 - 2 / math.pi, rel=0.01)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e20])
def test_scaled_sign_contracts(power, scale):
    """By 1 - 1/d at worst, a spike, with zeros among the coordinates."""
    x = np.sign(NORMAL[:200]) * np.abs(np.float64(NORMAL[:200])) ** power * scale
    x[50:60] = 0
    spike = np.where(np.arange(200) == 7, -scale, 0.0)
    for vector in (x, spike):
        x32 = np.float64(np.float32(vector))
        assert off(x32, sent(scaled_sign(), x32)) <= (1 - 1 / 200) * (1 + 1e-5)


def test_zero_has_the_sign_plus():
    np.testing.assert_allclose(sent(scaled_sign(), [0.0, -0.0, -3.0]), [1, 1, -1], rtol=1e-6)


def test_error_feedback_sends_in_the_end_what_signs_leave_out():
    """The mean of 60 packets of a constant update comes near it, which no single one does."""
    x = jnp.asarray(NORMAL[:256])
    compressor = error_feedback(scaled_sign())
    memory, total = compressor.init(x), 0.0
    encode = jax.jit(compressor.encode)
    for t in range(60):
        memory, packet = encode(jax.random.fold_in(KEY, t), memory, x, FIRST)
        total = total + np.asarray(compressor.decode(packet, x, FIRST), np.float64)
    assert off(x, total / 60) < 0.02 < off(x, sent(scaled_sign(), x))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"terngrad\(clip=0\).*clip > 0"):
        terngrad(0)
