"""Robust rules on dense vectors, against numbers that ByzFL 0.0.11 gave for the same vectors.

Made with its NumPy classes under NumPy 2.4.6. Its Krum and MultiKrum sum over n - f - 1 others and
the paper's over n - f - 2, so that theirs of f + 1 is ours of f.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate
from fedjax_rec.types import Now, Upload

pytestmark = pytest.mark.usefixtures("compiled_fast")
FOUND = {
    "Median": [0.8758811, 0.1207204, -0.629888, 0.3186775, 0.1059875, 0.3026951, -0.1948556],
    "TrMean(f=2)": [0.5513776, 0.1103599, -0.617994, 0.2325263, 0.1251674, 0.1094748, 0.01107765],
    "Meamed(f=2)": [0.2857408, 0.1431419, -0.8058689, 0.188564, 0.073929, 0.08901102, 0.03715039],
    "GeometricMedian(nu=0.1, T=3)": [
        0.4788113,
        0.1287516,
        -0.4169147,
        0.2446194,
        -0.01872609,
        0.1753409,
        0.04437792,
    ],
    "Krum(f=3)": [-0.3424806, 0.3345697, -0.3266351, 0.3186775, -0.3106973, 0.3026951, -0.2946716],
    "MultiKrum(f=3)": [
        0.4059731,
        -0.1026792,
        -0.2415384,
        0.1929742,
        -0.1770442,
        0.2196164,
        -0.0666499,
    ],
    "CenteredClipping(L=1, tau=1.5) twice": [
        0.4703304,
        0.09954494,
        -0.356838,
        0.1885916,
        0.01581038,
        0.1541346,
        0.05551219,
    ],
    "MDA(f=2)": [0.2857408, 0.01948615, -0.3018955, 0.188564, -0.09513829, 0.08697574, 0.03715039],
    "NNM(f=4), TrMean(f=2)": [
        0.3845172,
        0.05373313,
        -0.373638,
        0.2441945,
        -0.1725856,
        0.1861181,
        0.02676146,
    ],
    "NNM(f=4), Median": [
        0.3388434,
        0.02439253,
        -0.4134087,
        0.2297566,
        -0.1994535,
        0.2667154,
        0.01107765,
    ],
}
OURS = {
    "Median": lambda: aggregate.median(),
    "TrMean(f=2)": lambda: aggregate.trimmed_mean(2),
    "Meamed(f=2)": lambda: aggregate.meamed(2),
    "GeometricMedian(nu=0.1, T=3)": lambda: aggregate.geometric_median(0.1, 3),
    "Krum(f=3)": lambda: aggregate.krum(2),
    "MultiKrum(f=3)": lambda: aggregate.multi_krum(2, m=8),
    "CenteredClipping(L=1, tau=1.5) twice": lambda: aggregate.centered_clip(1.5),
    "MDA(f=2)": lambda: aggregate.mda(2),
    "NNM(f=4), TrMean(f=2)": lambda: aggregate.mixed(aggregate.nnm(4), aggregate.trimmed_mean(2)),
    "NNM(f=4), Median": lambda: aggregate.mixed(aggregate.nnm(4), aggregate.median()),
}


def vectors() -> np.ndarray:
    """float[11, 7], of which the first two lie."""
    k, i = np.meshgrid(np.arange(11), np.arange(7), indexing="ij")
    x = np.sin(1.0 + k * k * 0.7 + i * 1.3 + k * i * 0.37)
    x[:2] = x[:2] * 3 + 0.8
    return x


@pytest.mark.parametrize("name", FOUND)
def test_rules_are_those_of_byzfl(name):
    rule, shared = OURS[name](), {"w": jnp.zeros(7)}
    upload = Upload({"w": jnp.float32(vectors())}, jnp.ones(11), {})
    now, state = Now(jnp.int32(0), shared, jnp.arange(11)), rule.init(shared)
    for _ in range(2 if "twice" in name else 1):
        summary = rule.reduce(state, upload, now)
        state, update, _ = rule.finish(jax.random.key(0), state, summary, now)
    np.testing.assert_allclose(update["w"], FOUND[name], rtol=1e-5, atol=1e-5)
