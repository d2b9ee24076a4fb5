"""Files of one's own in configurations and on the command line: filters, seeds, ids as written."""

import json

import pytest
import yaml

from fedjax_rec.experiment import config
from fedjax_rec.experiment.folder import fingerprint
from fedjax_rec.experiment.loaded import load_run
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.prepare import read_data


@pytest.fixture
def csv(tmp_path):
    """12 users with ids that numbers would spoil, 6 of 12 items each, and two repeats."""
    lines = ["userId;asin;stars;unixReviewTime"]
    for user in range(12):
        for k in range(6):
            item = (5 * user + k) % 12
            lines.append(
                f"0{user:02d}-a;{item:03d};{1 + k % 5};{1_300_000_000 + 60 * user + k // 2}"
            )
    lines += ["000-a;000;5;1300009000", "000-a;000;5;1300009001"]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = {
    "model": {"class_path": "fedmf", "init_args": {"width": 4}},
    "evaluation": {"metrics": ["hr@5"]}, "rounds": 2,
}  # fmt: skip


def wanted(csv, *words, **section):
    return config.read({**SMALL, "data": {"source": str(csv), **section}}, words)


def test_a_run_gives_ids_back_as_they_are_written(csv, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**SMALL, "data": {"source": str(csv)}}))
    out = str(tmp_path / "run")
    assert main(["run", str(tmp_path / "own.yaml"), "--out", out, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["data"]["interactions"] == 72  # repeats are gone
    assert "user=userId, item=asin, rating=stars, time=unixReviewTime (seconds)" in told.err
    found = load_run(out).recommend("001-a", 3)
    assert all(len(item) == 3 and item.isdigit() for item in found["item"])
    with pytest.raises(ValueError, match="1-a"):
        load_run(out).recommend("1-a", 3)


def test_check_describes_a_file(csv, capsys):
    assert main(["data", "check", str(csv), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == {
        "user": "userId", "item": "asin", "rating": "stars", "time": "unixReviewTime",
    }  # fmt: skip
    assert (told["rows"], told["users"], told["items"], told["repeats"]) == (74, 12, 12, 2)
    assert told["density"] == 72 / 144 and told["ties"] == 72 and told["users_with_tied_ends"] == 11
    assert sum(told["ratings"].values()) == 74 and told["per_user"]["100%"] == 8
    assert told["dropped"] == {} and told["first_bad"] is None
    csv.write_text(csv.read_text() + "x;y;;1300000000\nx;y;3;-4\n;y;3;1300000000\n")
    assert main(["data", "check", str(csv), "--rating", "stars"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "dropped user: 1, rating: 1, time: 1" in shown and "rating (empty)" in shown
    assert main(["data", "check", str(csv), "--user", "userid"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'userId'?" in err and len(err.splitlines()) == 1
    assert main(["data", "check"]) == 2 and "data check needs a name" in capsys.readouterr().err


def test_windows_and_cores_of_a_configuration(csv):
    count = lambda **section: read_data(wanted(csv, **section)).described
    assert count()["interactions"] == 72
    assert count(until="2011-03-13 07:07:40")["users"] == 1
    assert count(since=1_300_000_600, core={"users": 3})["users"] == 2
    assert count(core={"users": 6, "items": 5})["interactions"] == 72
    with pytest.raises(ValueError, match=r"k_core\(users=0, items=7\) leaves nothing"):
        count(core={"items": 7})
    with pytest.raises(ValueError, match=r"names other bounds than users and items; write core: 5"):
        count(core={"user": 7})


def seed_of(csv, *words):
    split = wanted(csv, *words).plain["data"]["split"]
    return split["init_args"]["seed"] if isinstance(split, dict) else None


def test_a_split_draws_with_the_seed_of_the_run_unless_it_has_its_own(csv):
    assert seed_of(csv, "--data.split=ratio", "--seed=3") == 3
    assert seed_of(csv, "--data.split=ratio", "--seed=3", "--data.split.seed=0") == 0
    assert seed_of(csv, "--data.split=ratio") is None and seed_of(csv, "--seed=3") is None
    inner = "{class_path: fedjax_rec.data.ratio, init_args: {test: 0.3}}"
    found = wanted(csv, "--data.split=cold_users", f"--data.split.split={inner}", "--seed=3")
    arguments = found.plain["data"]["split"]["init_args"]
    assert arguments["seed"] == 3 and arguments["split"]["init_args"]["seed"] == 3
    parts = lambda *words: read_data(wanted(csv, "--data.split=ratio", *words)).split.part.tolist()
    assert parts("--seed=3") == parts("--data.split.seed=3", "--seed=1") != parts()


def test_keys_that_are_not_set_leave_a_run_what_it_was(csv):
    plain = wanted(csv).plain
    before = {k: v for k, v in plain["data"].items() if k not in ("since", "until")}
    assert fingerprint({**plain, "data": before}) == fingerprint(plain)
    assert fingerprint(wanted(csv, since=5).plain) != fingerprint(plain)


def test_a_column_is_the_split_of_a_configuration(csv):
    lines = csv.read_text().splitlines()[:73]
    ends = ["fold", *(("train", "train", "train", "train", "valid", "test") * 12)]
    csv.write_text("\n".join(f"{a};{b}" for a, b in zip(lines, ends, strict=True)) + "\n")
    source = {
        "class_path": "fedjax_rec.data.read", "init_args": {"source": str(csv), "split": "fold"},
    }  # fmt: skip
    found = read_data(config.read({**SMALL, "data": {"source": source, "split": "as_given"}}))
    assert found.dataset.test is not None
    assert sorted(found.split.part.tolist()) == [0] * 48 + [1] * 12 + [2] * 12
    with pytest.raises(ValueError, match="has none; name its column"):
        read_data(wanted(csv, "--data.split=as_given"))


def test_check_describes_a_folder_with_a_bad_line(tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\n"
    (folder / "own.inter").write_text(head + "a\t7\t3\nb\t7\tgood\n")
    assert main(["data", "check", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dropped"] == {"rating": 1} and "own.inter:3: rating 'good'" in told["first_bad"]


def test_a_file_takes_arguments_on_the_command_line(csv):
    (csv.parent / "films.csv").write_text("id,title\n000,Heat\n")
    features = f"--data.source.item_features={csv.parent / 'films.csv'}"
    named = ["--data.source=read", f"--data.source.source={csv}", features]
    for words in ([features], named):
        found = read_data(wanted(csv, *words)).split.interactions
        assert found.item_features["title"][0] == "Heat"
    assert read_data(config.read(SMALL, named[:2])).described["users"] == 12
    section = {"class_path": "synthetic", "init_args": {"num_users": 30, "num_items": 40}}
    assert read_data(config.read({**SMALL, "data": {"source": section}})).described["users"] == 30
    words = ["--data.source=synthetic", "--data.source.num_users=30"]
    assert config.read(SMALL, words).plain["data"]["source"]["class_path"].endswith("synthetic")
