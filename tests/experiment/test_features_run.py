"""A configuration with features of users and items, and what is refused of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from small_data import write_config, write_folder

import fedjax_rec as fr
from fedjax_rec import trees
from fedjax_rec.experiment import config as configuration
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.report import figures
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")
FEATURES = {
    "init_args": {
        "users": {"age": {"class_path": "equal_width", "init_args": {"bins": 3}}, "town": "tokens"},
        "items": {"genre": "tokens"},
    }
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("features")
    folder = write_folder(place / "tiny")
    users = [f"u{i}\t{20 + i % 30}\t{'Ulm' if i % 3 else ''}" for i in range(60)]
    items = [f"i{i}\t{'War Drama' if i % 2 else 'Noir'}" for i in range(39)]
    head = "user_id:token\tage:float\ttown:token"
    (folder / "tiny.user").write_text("\n".join([head, *users]) + "\n")
    (folder / "tiny.item").write_text("\n".join(["item_id:token\tgenre:token_seq", *items]) + "\n")
    write_config(
        place / "tiny.yaml", folder, rounds=1, model="feature_mf",
        data={"source": str(folder), "features": FEATURES},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(figures, "draw_all", lambda folder: [])
        yield place


def test_a_run_reads_them_and_is_loaded_with_them(place):
    done = fr.run(place / "tiny.yaml", out=place / "run", show=False)
    assert done.summary["data"]["feature_columns"] == {"users": 6, "items": 4}
    about = done.state.private["user_fields"]["about"]
    told = done.read_config.data.features.encode(done.experiment.read.split)
    np.testing.assert_array_equal(about[:, 0], told.users)
    np.testing.assert_array_equal(done.state.shared["item_fields"]["described"].value, told.items)
    assert told.user_columns[-2:] == ("town: Ulm", "town: missing")
    assert len(done.recommend("u3", k=3)) == 3


@pytest.mark.parametrize("model", ["two_tower", "feature_deepfm", "feature_dcn"])
def test_towers_and_click_models_read_them_as_fields(place, model):
    page = yaml.safe_load((place / "tiny.yaml").read_text())
    page["model"] = {"class_path": model, "init_args": {"width": 4}}
    page["strategy"] = {"class_path": "fedncf", "init_args": {"layer_learning_rate": 0.5}}
    made = prepare(configuration.read(page))
    late = made.read.late
    assert late["user_field_sizes"] == (4, 2) and late["item_field_sizes"] == (4,)
    state = made.strategy.init(jax.random.key(0), made.dataset.num_clients)
    np.testing.assert_array_equal(state.private["user_fields"]["about"], late["user_features"])
    np.testing.assert_array_equal(
        state.shared["item_fields"]["described"].value, late["item_features"]
    )
    # A vector of their own and one for each of two fields and one.
    kernels = {
        "two_tower": ("user_tower", 3 * 4), "feature_deepfm": ("logit", 5 * 4),
        "feature_dcn": ("logit", 5 * 4),
    }  # fmt: skip
    part, inputs = kernels[model]
    first = [x for path, x in trees.named(state.shared[part]).items() if "kernel" in path]
    assert any(x.shape[0] == inputs for x in first)
    after, info = made.strategy.round(
        jax.random.key(1), state, Cohort(jnp.arange(made.dataset.num_clients), made.dataset.store)
    )
    assert np.isfinite(info.metrics["loss"]).all()
    assert (after.shared["user_fields"]["table"] != state.shared["user_fields"]["table"]).any()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "fedmf"}, r"data.features.users: model=.*fedmf reads no features of users; use"),
        ({"data": {"features": {"init_args": {"users": {"aeg": "tokens"}}}}}, "did you mean 'age'"),
        ({"data": {"features": {"init_args": {"users": {"town": "min_max"}}}}}, "'Ulm' is no num"),
        (
            {"data": {"features": {"init_args": {"users": {"age": "tokns"}}}}},
            r"data.features.*tokns",
        ),
        ({"data": {"features": {"init_args": {}}}}, "names no column"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(place, changes, complaint):
    page = yaml.safe_load((place / "tiny.yaml").read_text())
    for key, value in changes.items():
        page[key] = {**page[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=complaint):
        prepare(configuration.read(page))


def test_without_features_the_model_is_fedmf_with_a_centre(place):
    page = yaml.safe_load((place / "tiny.yaml").read_text())
    del page["data"]["features"]
    made = prepare(configuration.read(page))
    assert set(made.outline.private) == {"user"} and set(made.outline.shared) == {"item", "centre"}
