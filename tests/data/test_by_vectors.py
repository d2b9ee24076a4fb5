"""Users by K-means of vectors: the groups that there are, a step that no mean improves, files that
are none."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_partition import sound, users

from fedjax_rec import data
from fedjax_rec.data.by_vectors import clusters


def test_groups_that_lie_apart_are_found():
    rng = np.random.default_rng(0)
    of = rng.integers(0, 4, 60)
    x = 10.0 * rng.normal(size=(4, 5))[of] + rng.normal(size=(60, 5))
    got = clusters(x, 4, seed=1)
    # The same groups under other names.
    assert len({*zip(of.tolist(), got.tolist(), strict=True)}) == 4


def test_no_user_is_nearer_to_another_mean():
    x = np.random.default_rng(1).normal(size=(80, 3))
    got = clusters(x, 5, seed=0)
    means = np.array([x[got == c].mean(0) for c in range(5)])
    for row, c in zip(x, got, strict=True):
        far = [np.sum((row - m) ** 2) for m in means]
        assert far[c] <= min(far) + 1e-12
    assert (got == clusters(x, 5, seed=0)).all()


def test_vectors_of_a_file_make_clients(tmp_path):
    x = np.random.default_rng(2).normal(size=(12, 1, 3)).astype(np.float32)
    save_file({"private/user": x, "flat": x[:, 0]}, tmp_path / "weights.safetensors")
    partition = data.by_vectors(str(tmp_path), 3)(users(12))
    sound(partition, 12)
    named = data.by_vectors(str(tmp_path / "weights.safetensors"), 3, name="flat")(users(12))
    assert (named.client_of_user == partition.client_of_user).all()
    alike = {"private/user": np.zeros((12, 3), np.float32)}
    save_file(alike, tmp_path / "alike.safetensors")
    sound(data.by_vectors(str(tmp_path / "alike.safetensors"), 3)(users(12)), 12)


def test_what_is_wrong_is_said(tmp_path):
    save_file({"other": np.zeros((4, 2), np.float32)}, tmp_path / "x.safetensors")
    place = str(tmp_path / "x.safetensors")
    for make, told in (
        (lambda: data.by_vectors(place, 0), "num_clients=0"),
        (lambda: data.by_vectors(place, 5)(users(4)), "exceeds the 4 users"),
        (lambda: data.by_vectors(place, 2)(users(4)), "has no private/user, but other"),
        (lambda: data.by_vectors(place, 2, name="other")(users(5)), "4 users and the data have 5"),
    ):
        with pytest.raises(ValueError, match=told):
            make()
    with pytest.raises(FileNotFoundError, match="fedjax-rec export"):
        data.by_vectors(str(tmp_path / "none"), 2)(users(4))
