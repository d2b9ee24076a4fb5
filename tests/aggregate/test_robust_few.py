"""Rules that get too few clients: refused where shapes say so, else a round of nobody; and what is
refused when a rule is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from robust_world import flat, made, uploads

from fedjax_rec import aggregate

pytestmark = pytest.mark.usefixtures("compiled_fast")
# name -> (rule of f, the fewest clients for f = 1).
LEAST = {
    "trimmed_mean": (aggregate.trimmed_mean, 3),
    "meamed": (aggregate.meamed, 3),
    "mda": (aggregate.mda, 3),
    "dnc": (aggregate.dnc, 3),
    "caf": (aggregate.caf, 3),
    "krum": (aggregate.krum, 5),
    "multi_krum": (aggregate.multi_krum, 5),
    "bulyan": (aggregate.bulyan, 7),
}


@pytest.mark.parametrize("name", LEAST)
def test_too_few_clients(name):
    make, least = LEAST[name]
    line = rf"{name}\(f=1\) needs {least} clients a round and gets {least - 1}; use f <= 0, or"
    with pytest.raises(ValueError, match=line):
        made(make(1), take(least - 1))
    # As many slots as it takes, of which one is padding: nobody is taken, and nothing moves.
    _, update, verdicts = made(make(1), absent(take(least)))
    assert not np.asarray(update).any() and not np.asarray(verdicts).any()
    assert verdicts.dtype == jnp.float32
    _, update, verdicts = made(make(1), take(least))
    assert np.asarray(update).any() and np.asarray(verdicts).any()


def take(clients: int):
    """Uploads of the last `clients`, all of whom weigh something."""
    upload = uploads("ids", absent=())
    return jax.tree.map(lambda x: x[-clients:], upload)


def absent(upload):
    """The first weighs nothing."""
    return type(upload)(upload.update, upload.weight.at[0].set(0), {})


REFUSED = {
    r"median\(floor=0\) is too small; use floor >= 1": lambda: aggregate.median(0),
    r"trimmed_mean\(f=-1\) is too small; use f >= 0": lambda: aggregate.trimmed_mean(-1),
    r"trimmed_mean\(floor=0\)": lambda: aggregate.trimmed_mean(1, floor=0),
    r"meamed\(f=-2\)": lambda: aggregate.meamed(-2),
    r"krum\(f=-1\)": lambda: aggregate.krum(-1),
    r"multi_krum\(m=0\)": lambda: aggregate.multi_krum(1, m=0),
    r"bulyan\(f=-1\)": lambda: aggregate.bulyan(-1),
    r"mda\(f=-1\)": lambda: aggregate.mda(-1),
    r"nnm\(f=-1\)": lambda: aggregate.nnm(-1),
    r"bucketing\(s=0\)": lambda: aggregate.bucketing(0),
    r"geometric_median\(nu=0\) must be positive": lambda: aggregate.geometric_median(0),
    r"geometric_median\(steps=0\)": lambda: aggregate.geometric_median(steps=0),
    r"norm_bound\(bound=0\) must be positive": lambda: aggregate.norm_bound(0),
    r"row_norm_bound\(dense_bound=-1\)": lambda: aggregate.row_norm_bound(1.0, -1),
    r"centered_clip\(tau=0\)": lambda: aggregate.centered_clip(0),
    r"foolsgold\(confidence=0\)": lambda: aggregate.foolsgold(0),
    r"dnc\(share=0\) looks at nothing; use 0 < share <= 1": lambda: aggregate.dnc(1, share=0),
    r"dnc\(times=0\)": lambda: aggregate.dnc(1, times=0),
    r"dnc\(c=0\)": lambda: aggregate.dnc(1, c=0),
    r"caf\(f=-1\)": lambda: aggregate.caf(-1),
    r"quorum\(f=-1\)": lambda: aggregate.quorum(-1),
    r"quorum\(quantile=2\) is no fraction": lambda: aggregate.quorum(1, 2),
    r"quorum\(budget=1.5\) is no fraction": lambda: aggregate.quorum(1, budget=1.5),
    r"quorum\(clients=-1\) is no fraction": lambda: aggregate.quorum(1, clients=-1),
    r"hics\(bound=0\) must be positive": lambda: aggregate.hics(0),
    r"hics\(share=0\) moves nothing; use 0 < share <= 1": lambda: aggregate.hics(1.0, 0),
    r"union\(items=1\)": lambda: aggregate.union(items=1),
    r"union\(step=0\)": lambda: aggregate.union(step=0),
    r"fltrust\(root=None\) has nothing to trust; give a Root, or root data to": lambda: (
        aggregate.fltrust()
    ),
    r"nnm\(f=12\) needs 13 clients a round and gets 12; use f <= 11, or 13": lambda: made(
        aggregate.mixed(aggregate.nnm(12), aggregate.median()), uploads("whole")
    ),
    r"mda\(f=5\) of 40 clients looks at 658008 subsets; use fewer .* or multi_krum\(f=5\)":
        lambda: made(aggregate.mda(5), uploads("whole", clients=40)),
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_one_line_says_what_is_wrong(line):
    with pytest.raises(ValueError, match=f"^{line}") as error:
        REFUSED[line]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: aggregate.trimmed_mean(f, floor=f + 1),
        aggregate.meamed,
        aggregate.multi_krum,
        aggregate.bulyan,
        aggregate.dnc,
        aggregate.caf,
        lambda f: aggregate.mixed(aggregate.nnm(f), aggregate.median(f + 1)),
    ],
)
def test_the_number_of_attackers_may_be_traced(make):
    """f = 1 and 2 of one program are those of two."""
    run = jax.jit(lambda f: made(make(f), uploads("ids"))[1])
    one, two = run(1), run(2)
    np.testing.assert_allclose(one, made(make(1), uploads("ids"))[1], atol=1e-6)
    np.testing.assert_allclose(two, made(make(2), uploads("ids"))[1], atol=1e-6)
    assert np.abs(np.asarray(one - two)).max() > 1e-3


STANDING = {
    "median": lambda: aggregate.median(5),
    "trimmed_mean": lambda: aggregate.trimmed_mean(2),
    "meamed": lambda: aggregate.meamed(2),
    "geometric_median": lambda: aggregate.geometric_median(steps=20),
    "krum": lambda: aggregate.krum(2),
    "multi_krum": lambda: aggregate.multi_krum(2),
    "bulyan": lambda: aggregate.bulyan(2),
    "mda": lambda: aggregate.mda(2),
    "dnc": lambda: aggregate.dnc(2),
    "caf": lambda: aggregate.caf(2),
    "nnm, trimmed_mean": lambda: aggregate.mixed(aggregate.nnm(2), aggregate.trimmed_mean(2)),
}


@pytest.mark.parametrize("size", [30.0, 1e12, 3.4e38])
@pytest.mark.parametrize("name", STANDING)
def test_two_liars_move_nothing_beyond_what_the_others_say(name, size):
    """Of twelve clients two say plus and minus `size` everywhere."""
    upload = uploads("whole", absent=())
    item = upload.update["item"]
    lie = lambda x: x.at[0].set(size).at[7].set(-size)
    live = item.live.at[jnp.array([0, 7])].set(True)
    upload.update["item"] = type(item)(lie(item.values), None, live, None, item.size)
    upload.update["kernel"] = lie(upload.update["kernel"])
    honest = np.delete(flat(upload)[0], [0, 7], 0)
    update = np.asarray(made(STANDING[name](), upload)[1], float)
    low, high = honest.min(0), honest.max(0)
    slack = 0.05 if name == "geometric_median" else 1e-5
    assert (update >= low - slack).all() and (update <= high + slack).all()
    assert np.abs(update).max() > 0.1
