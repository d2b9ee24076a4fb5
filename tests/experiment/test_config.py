"""Configurations: what YAML and the command line say is made, or one line says what is wrong."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from rounds import now
from safetensors.numpy import save_file
from small_data import MYLAB

from fedjax_rec import aggregate, models, rows, wire
from fedjax_rec.data import Batches
from fedjax_rec.experiment import config, overrides
from fedjax_rec.experiment.config import ConfigError, part, read
from fedjax_rec.experiment.factories import called, check_made
from fedjax_rec.simulate import Cohorts
from fedjax_rec.types import Aggregator, Compressor, Model, Strategy

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("Star", "Toy", "Lost", "Night", "Blue", "Silent", "Last", "Big", "Wild", "Secret")
LAST = ("Wars", "Story", "Highway", "Train", "Velvet", "Lambs", "King", "Sleep", "Lion", "Garden")
LISTS = {
    file
    for name in ("arena", "rerank", "runs", "ledgers", "sweeps")
    for file in (ROOT / "configs" / name).iterdir()
}
SHIPPED = sorted(set((ROOT / "configs").rglob("*.yaml")) - LISTS)
CHOICES = [
    (path, name)
    for path in SHIPPED
    for name in yaml.safe_load(path.read_text()).get("choices") or {}
]


@pytest.fixture
def written(tmp_path):
    """Writes text as a configuration."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    (tmp_path / "lab" / "mylab").mkdir(parents=True)
    (tmp_path / "lab" / "mylab" / "__init__.py").write_text(MYLAB)
    monkeypatch.syspath_prepend(tmp_path / "lab")
    monkeypatch.delitem(__import__("sys").modules, "mylab", raising=False)


def arguments(make) -> dict:
    """What `_late` hands to a factory besides what is known in the run."""
    free = dict(zip(make.__code__.co_freevars, make.__closure__, strict=True))
    return free["kwargs"].cell_contents


def shipped() -> list:
    """Files and their choices; those that read the weights of a language model, where they are
    installed, take long."""
    slow = lambda path: [pytest.mark.slow] if "smollm2" in path.read_text() else []
    return [
        pytest.param(path, choice, id="_".join(filter(None, (path.stem, choice))), marks=slow(path))
        for path, choice in [*((path, None) for path in SHIPPED), *CHOICES]
    ]


@pytest.mark.parametrize(("path", "choice"), shipped())
def test_every_shipped_configuration_is_read_and_made(path, choice, tmp_path):
    titles = [f"{a} {b} ({year})" for a in FIRST for b in LAST for year in (1977, 1987, 1995)]
    fields = {"tokens": np.ones((2, 3), np.int32), "length": np.int32([3, 2])}
    late = {"titles": titles, "fields": {**fields, "prompt": np.arange(2)}}
    late |= {"item_features": np.eye(len(titles), 3, dtype=np.float32)}
    try:
        words = [f"--choose={choice}"] if choice else []
        config = read(path, words)
        if "vectors" in (config.plain["model"].get("init_args") or {}):  # of a run before it
            of = {"private/user": np.ones((3, 16)), "shared/item": np.ones((len(titles), 16))}
            found = {name: np.float32(x) for name, x in of.items()}
            save_file(found, tmp_path / "weights.safetensors")
            config = read(path, [*words, f"--model.vectors={tmp_path}"])
        if "catalogue" in (config.plain["model"].get("init_args") or {}):
            shared = rows.dense(models.sasrec(len(titles)).init(jax.random.key(0))[0])
            leaves = jax.tree_util.tree_leaves_with_path({"shared": shared})
            name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
            found = {name(path): np.asarray(x) for path, x in leaves}
            save_file(found, tmp_path / "weights.safetensors")
            (tmp_path / "items.json").write_text(json.dumps({"texts": titles}))
            config = read(path, [*words, f"--model.catalogue={tmp_path}"])
        model = config.make_model(num_items=len(titles), members=1, **late)
    except (FileNotFoundError, ConfigError) as error:
        # Weights that are not here, and what a run that comes before it is to leave.
        if any(told in str(error) for told in ("run `fedjax-rec data get", "`fedjax-rec export")):
            pytest.skip(str(error))
        raise
    stem = "_".join(filter(None, (path.stem, choice)))
    assert config.name == (yaml.safe_load(path.read_text()).get("name") or stem)
    assert isinstance(model, Model)
    assert isinstance(config.make_strategy(model, config.examples, None), Strategy)
    assert isinstance(config.cohorts, Cohorts) and isinstance(config.examples, Batches)


def test_there_are_shipped_configurations():
    assert "pfedrec_ml100k" in [path.stem for path in SHIPPED]


def test_compressors_nest_in_a_configuration(written):
    """A chain in error feedback up, parts of a model each their own way down."""
    inner = {"first": {"class_path": "fedjax_rec.compress.rotate", "init_args": {"times": 1}},
             "second": {"class_path": "fedjax_rec.compress.lloyd_max"}}  # fmt: skip
    chain = {"class_path": "fedjax_rec.compress.chain", "init_args": inner}
    uplink = {"class_path": "fedjax_rec.compress.error_feedback",
              "init_args": {"compressor": chain, "rows": 7}}  # fmt: skip
    rules = {"rows": {"class_path": "fedjax_rec.compress.top_k"}}
    downlink = {"class_path": "fedjax_rec.compress.partition", "init_args": {"rules": rules}}
    strategy = {"class_path": "fedjax_rec.strategies.fedmf",
                "init_args": {"uplink": uplink, "downlink": downlink}}  # fmt: skip
    config = read(written(yaml.safe_dump({"strategy": strategy})))
    made = arguments(config.make_strategy)
    update = {"item": jnp.ones((9, 4))}
    uplink = made["uplink"]
    _, packet = uplink.encode(jax.random.key(0), uplink.init(update), update, now())
    assert isinstance(packet.body["item"].values, wire.Codes)
    with pytest.raises(ValueError, match="nothing is left for 'rows'"):
        made["downlink"].init(update)


def test_defaults_without_a_file():
    config = read(None)
    assert (config.name, config.seed, config.rounds) == ("run", 0, 100)
    assert config.plain["model"]["class_path"] == "fedjax_rec.models.fedmf"
    assert config.data.source == "ml-100k" and config.evaluation.candidates == "full"


def test_the_plain_form_reads_back_to_itself(written):
    words = ["--cohorts=uniform", "--cohorts.size=3", "--strategy.server=optax.adam",
             "--strategy.server.learning_rate=1e-2", "--data.split=ratio", "--seed=4"]  # fmt: skip
    first = read(None, words)
    assert read(written(yaml.safe_dump(first.plain))).plain == first.plain
    assert first.plain["strategy"]["init_args"]["server"]["init_args"]["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--rounds=3"], "rounds", 3),
        (["--rounds", "3"], "rounds", 3),
        (["--rounds", "4", "--rounds", "3"], "rounds", 3),
        (["--name", "2024"], "name", 2024),
        (["--data.implicit", "false"], "data.implicit", False),
        (["--data.above=3.5"], "data.above", 3.5),
        (["--evaluation.metrics", '["hr@5"]'], "evaluation.metrics", ["hr@5"]),
        (["--evaluation.metrics=[hr@5, mrr]"], "evaluation.metrics", ["hr@5", "mrr"]),
        (["--model.width", "7"], "model.init_args.width", 7),
        (["--model.init_args.width=7"], "model.init_args.width", 7),
        (["--model.scale=1e-3"], "model.init_args.scale", 0.001),
        (["--model", "fedjax_rec.models.pfedrec"], "model.class_path", "fedjax_rec.models.pfedrec"),
        (["--model=pfedrec"], "model.class_path", "fedjax_rec.models.pfedrec"),
        (["--model.class_path=pfedrec"], "model.class_path", "fedjax_rec.models.pfedrec"),
        (
            ["--model.objective", "fedjax_rec.models.bpr"],
            "model.init_args.objective.class_path",
            "fedjax_rec.models.bpr",
        ),
        (["--strategy", "fedavg", "--strategy.epochs=2"], "strategy.init_args.epochs", 2),
        (["--strategy.steps", "null"], "strategy.init_args.steps", None),
        (
            ["--strategy.aggregator", "fedjax_rec.aggregate.mean"],
            "strategy.init_args.aggregator.class_path",
            "fedjax_rec.aggregate.mean",
        ),
        (
            ["--strategy.uplink=fedjax_rec.compress.cast", "--strategy.uplink.dtype=bfloat16"],
            "strategy.init_args.uplink.init_args.dtype",
            "bfloat16",
        ),
        (["--cohorts=uniform", "--cohorts.size=3"], "cohorts.init_args.size", 3),
        (
            ["--cohorts", '{"class_path": "uniform", "init_args": {"size": 3}}'],
            "cohorts.init_args.size",
            3,
        ),
        (["--examples.negatives", "2"], "examples.init_args.negatives", 2),
        (
            ["--data.split=fedjax_rec.data.ratio", "--data.split.test=0.2"],
            "data.split.init_args.test",
            0.2,
        ),
        (["--data.clients=by_hash", "--data.clients.num_clients=6"],
         "data.clients.init_args.num_clients", 6),
    ],
)  # fmt: skip
def test_what_the_command_line_says_is_set(words, key, value):
    found = read(None, words).plain
    for name in key.split("."):
        found = found[name]
    assert found == value


@pytest.mark.parametrize(
    ("text", "words", "key", "value"),
    [
        ("model: {init_args: {scale: 0.2}}", ["--model.width=8"], "model.init_args.width", 8),
        ("strategy: {init_args: {epochs: 2}}", ["--strategy.batch_size=8"],
         "strategy.init_args.epochs", 2),
        ("examples: {init_args: {negatives: 2}}", [], "examples.init_args.negatives", 2),
        ("examples: {init_args: {negatives: 2}}", ["--examples.negatives=3"],
         "examples.init_args.negatives", 3),
        ("data: {split: {init_args: {ties: first}}}", [], "data.split.init_args.ties", "first"),
        ("data: {split: {init_args: {ties: first}}}", ["--data.split=ratio"],
         "data.split.class_path", "fedjax_rec.data.ratio"),
        ("data: {clients: {init_args: {}}}", [], "data.clients.class_path",
         "fedjax_rec.data.by_user"),
        ("", ["--rounds=3"], "rounds", 3),
        ("# nothing\n", [], "rounds", 100),
    ],
)  # fmt: skip
def test_arguments_alone_are_of_the_default_factory(written, text, words, key, value):
    config = read(written(text), words)
    found = config.plain
    for name in key.split("."):
        found = found[name]
    assert found == value
    assert callable(part(config.data.split, "data.split"))
    assert callable(part(config.data.clients, "data.clients"))


def test_the_command_line_wins_over_the_file(written):
    path = written(
        "rounds: 9\nmodel: {class_path: pfedrec, init_args: {width: 6}}\n"
        "cohorts: {class_path: uniform, init_args: {size: 3}}\nexamples: pairwise\n"
    )
    config = read(path, ["--rounds=2", "--cohorts.size", "5"])
    assert (config.name, config.rounds) == ("mine", 2)
    assert config.cohorts.size(10) == 5 and config.plain["model"]["init_args"]["width"] == 6
    # Another factory keeps the arguments that it takes too, and drops the others.
    other = read(path, ["--model=gmf", "--cohorts=full"])
    assert other.plain["model"]["class_path"] == "fedjax_rec.models.gmf"
    assert other.plain["model"]["init_args"]["width"] == 6 and other.cohorts.size(10) == 10


def test_optax_transforms_are_made_from_yaml(written):
    path = written(
        "strategy:\n  class_path: fedavg\n  init_args:\n"
        "    server: {class_path: optax.adam, init_args: {learning_rate: 0.01}}\n"
        "    optimizer: {class_path: optax.sgd, init_args: {learning_rate: 1e-1}}\n"
        "    aggregator: fedjax_rec.aggregate.uniform\n"
    )
    made = arguments(read(path).make_strategy)
    assert isinstance(made["server"], optax.GradientTransformation)
    assert isinstance(made["optimizer"], optax.GradientTransformation)
    assert isinstance(made["aggregator"], Aggregator)


def test_a_user_names_factories_of_their_own(written, mylab):
    path = written(
        "model: {class_path: mylab.my_model, init_args: {size: 5}}\n"
        "strategy:\n  class_path: mylab.my_strategy\n"
        "  init_args: {rate: 0.2, uplink: {class_path: mylab.my_uplink, init_args: {step: 0.25}}}\n"
    )
    config = read(path)
    model = config.make_model(num_items=9, members=1)
    assert model.init(__import__("jax").random.key(0))[1]["user"].shape == (1, 5)
    assert isinstance(config.make_strategy(model, config.examples, None), Strategy)
    assert isinstance(arguments(config.make_strategy)["uplink"], Compressor)
    with pytest.raises(ConfigError, match=r"mylab has no factory 'my_modle' \(did you mean"):
        read(None, ["--model", "mylab.my_modle"])
    with pytest.raises(ConfigError, match=r"mylab has no factory 'number'"):
        read(None, ["--model", "mylab.number"])
    with pytest.raises(ConfigError, match=r"model.init_args.szie .* \(did you mean .*size'"):
        read(None, ["--model=mylab.my_model", "--model.szie=3"])
    with pytest.raises(ConfigError, match=r"mylab.unmarked is no factory .*`-> \S*Compressor`"):
        read(None, ["--strategy.uplink", "mylab.unmarked"])


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("round: 3", [], "round is no key of the configuration (did you mean 'rounds'?)"),
        ("{}", ["--round", "3"], "(did you mean 'rounds'?)"),
        ("data: {negatves: train}", [], "(did you mean 'data.negatives'?)"),
        ("{}", ["--data.negatves=train"], "(did you mean 'data.negatives'?)"),
        ("evaluation: {evry: 2}", [], "(did you mean 'evaluation.every'?)"),
        ("{}", ["--model.widht=3"], "(did you mean 'model.init_args.width'?)"),
        ("{}", ["--cohorts=uniform", "--cohorts.siez=3"], "(did you mean 'size'?)"),
        ("{}", ["--strategy.uplink=fedjax_rec.compress.cast", "--strategy.uplink.dtpe=x"],
         "(did you mean 'dtype'?)"),
        ("{}", ["--rounds=many"], "rounds=many is of the wrong type; use a whole number"),
        ("rounds: 2.5", [], "rounds=2.5 is of the wrong type"),
        ("{}", ["--rounds=0"], "rounds=0"),
        ("{}", ["--seed=-1"], "seed=-1 is no seed, or the same run as 4294967295"),
        ("{}", ["--seed=4294967297"], "seed=4294967297 is no seed, or the same run as 1; use 0 <="),
        ("data: {implicit: false, above: 3}", [], "data.above=3.0 is not read with data.implicit"),
        ("{}", ["--evaluation.every=0"], "evaluation.every=0"),
        ("{}", ["--checkpoint_every=-1"], "checkpoint_every=-1"),
        ("{}", ["--evaluation.metrics=[]"], "evaluation.metrics=[]"),
        ("{}", ["--evaluation.metrics=hr@5"], "use a list"),
        ("{}", ["--evaluation.candidates=all"], "use one of 'full', 'sampled', 'both', 'ratings'"),
        ("{}", ["--model.width=a"], "model.init_args.width=a is of the wrong type"),
        ("{}", ["--cohorts=uniform"], "cohorts lacks size"),
        ("{}", ["--cohorts=unifrom"], "(did you mean 'uniform'?)"),
        ("{}", ["--cohorts=poisson", "--cohorts.rate=2"], "poisson(rate=2.0)"),
        ("{}", ["--model=nosuch.thing"], "No module named 'nosuch'"),
        ("{}", ["--strategy=fedmff"], "(did you mean 'fedmf'?)"),
        ("{}", ["--strategy=optax.adam"], "lacks strategy.init_args.learning_rate"),
        ("strategy: 3", [], "strategy=3 names no factory"),
        ("data: ml-100k", [], "data=ml-100k is no mapping"),
        ("{}", ["--strategy.aggregator=fedjax_rec.compress.identity"], "is no factory of one"),
        ("{}", ["--strategy.server=optax.adamm"], "(did you mean 'adam'?)"),
        ("{}", ["--strategy.server={class_path: optax.adamm}"], "(did you mean 'adam'?)"),
        ("{}", ["--strategy.server={class_path: nosuch.adam}"], "No module named 'nosuch'"),
        ("{}", ["--strategy.server={class_path: optax.adam}"], "learning_rate"),
        ("{}", ["--strategy.server=optax.adam", "--strategy.server.learning_rat=1"],
         "(did you mean 'learning_rate'?)"),
        ("{}", ["--strategy.server={class_path: fedjax_rec.strategies.step, "
                "init_args: {learning_rate: -1}}"],
         "step(learning_rate=-1.0) must be positive"),
        ("{}", ["--data.split=global_time", "--data.split.test=1"],
         "data.split: global_time(validation=0.1, test=1.0)"),
        ("{}", ["--data.source.num_usrs=3", "--data.source.class_path=fedjax_rec.data.synthetic"],
         "num_usrs"),
        ("{}", ["stray"], "'stray' is no option; write --key value."),
        ("{}", ["--rounds"], "--rounds has no value"),
        ("{}", ["--rounds", "--seed", "3"], "--rounds has no value"),
        ("{}", ["--rounds.more=3"], "rounds"),
        ("[1, 2]", [], "holds no mapping"),
        ("a: [1", [], "mend the YAML"),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_the_remedy(written, text, words, told):
    with pytest.raises(ConfigError) as error:
        read(written(text), words)
    assert told in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml: there is no such configuration file"):
        read(tmp_path / "absent.yaml")


def test_what_is_made_is_of_the_library():
    made = arguments(
        read(None, ["--strategy.aggregator=fedjax_rec.aggregate.per_row"]).make_strategy
    )
    assert type(made["aggregator"]) is type(aggregate.per_row())


def test_a_schedule_of_rates_is_written_with_the_name_of_its_optimizer(written):
    linear = {"init_value": 1.0, "end_value": 0.1, "transition_steps": 10}
    schedule = {"class_path": "optax.linear_schedule", "init_args": linear}
    rates = {"make": "fedjax_rec.clients.sgd", "schedule": schedule}
    optimizer = {"class_path": "fedjax_rec.clients.scheduled", "init_args": rates}
    groups = {"class_path": "fedjax_rec.clients.groups", "init_args": {"optimizers": {
        "item": {"class_path": "optax.adam", "init_args": {"learning_rate": 0.1}},
        "private": optimizer,
    }}}  # fmt: skip
    of = lambda part: {"strategy": {
        "class_path": "fedjax_rec.strategies.fedavg", "init_args": {"optimizer": part},
    }}  # fmt: skip
    made = arguments(read(written(yaml.safe_dump(of(optimizer)))).make_strategy)["optimizer"]
    rate = lambda round: float(made.rate("private/user", now(round)))
    assert rate(0) == 1.0 and rate(10) == pytest.approx(0.1)
    both = arguments(read(written(yaml.safe_dump(of(groups)))).make_strategy)["optimizer"]
    assert both.covers("shared/item") and both.covers("private/user")
    assert both.rate("shared/item", now()) is None, "Adam"


def test_which_arguments_want_a_factory_itself(tmp_path, monkeypatch):
    """Also in a module whose annotations are no strings."""
    lines = ("import typing as t, collections.abc as c",)
    lines += ("Of = c.Callable[..., int]",)
    lines += ("def f(a: Of, b: t.Callable[..., str], d: t.Optional[Of], e: int,",)
    lines += ("      g: t.Union[Of, int], h, i: c.Callable[[int], int]) -> Of: pass",)
    lines += ("class K:", "    def __init__(self, make: Of, n: int): pass")
    (tmp_path / "annotated.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert called("annotated.f") == {"a", "b", "d"}
    assert called("annotated.K") == {"make"}
    assert called("fedjax_rec.clients.scheduled") == {"make"}
    assert called("optax.adam") == called("nowhere.f") == called(None) == set()


def test_what_another_factory_does_not_take_is_said(capsys):
    overrides._tell_lost.cache_clear()
    given = {"strategy": {"init_args": {"user_learning_rate": 20.0, "item_learning_rate": 60.0}}}
    kept = config.read(given, ["--strategy", "fedprox"]).plain["strategy"]["init_args"]
    assert (kept["user_learning_rate"], kept["item_learning_rate"]) == (20.0, 60.0)
    assert capsys.readouterr().err == ""
    for _ in range(2):  # once, as of the runs of a sweep
        config.read(given, ["--strategy", "pfedrec"])
    assert capsys.readouterr().err == (
        "fedjax-rec: strategy=fedjax_rec.strategies.pfedrec does not take user_learning_rate=20.0; "
        "dropped.\n"
    )


def test_of_parts_within_parts_the_one_at_fault_is_named():
    """And not the first that was left unmade because of another."""
    split = {"class_path": "fedjax_rec.data.temporal_ratio", "init_args": {"test": 0.2}}
    whole = {"class_path": "fedjax_rec.data.cold_items", "init_args": {"split": split}}
    whole["init_args"]["fraction"] = 2.0
    with pytest.raises(ConfigError, match=r"^data.split: cold_items\(fraction=2.0\)"):
        check_made({"split": whole}, "data")
    split["init_args"]["test"] = 3.0
    with pytest.raises(
        ConfigError, match=r"^data.split.init_args.split: temporal_ratio\(.*test=3.0"
    ):
        check_made({"split": whole}, "data")
