"""`fedjax-rec attack`: what it writes of a configuration and of a run, and what it refuses."""

import json

import pytest
import yaml
from small_data import write_config, write_folder

from fedjax_rec.experiment.ledger import run_ledger
from fedjax_rec.experiment.main import main

pytestmark = pytest.mark.usefixtures("compiled_fast")
SMALL = ["--clients", "60"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `tiny/tiny.inter` and `tiny.yaml`."""
    place = tmp_path_factory.mktemp("attack")
    source = write_folder(place / "tiny")
    write_config(place / "tiny.yaml", source, rounds=2, checkpoint_every=0)
    return place


@pytest.fixture(scope="module")
def told(place):
    """What `attack` of the configuration wrote."""
    words = ["attack", str(place / "tiny.yaml"), "--out", str(place / "told.json"), *SMALL]
    assert main([*words, "--attacks", "touched", "magnitudes", "directions", "popularity"]) == 0
    return json.loads((place / "told.json").read_text())


def test_a_configuration_is_trained_and_attacked(told):
    assert told["round"] == 2 and told["bytes_up"] > 50 and "hr@5" in told["metrics"]
    by = {row["attack"]: row for row in told["rows"]}
    assert list(by) == ["touched", "magnitudes", "directions", "popularity"]
    assert by["touched"]["f1"]["mean"] == 1.0 and by["touched"]["of"] == "touched"
    for row in told["rows"]:
        assert row["users"] == 60 and 0 <= row["random"] <= 1
        assert row["f1"]["low"] <= row["f1"]["mean"] <= row["f1"]["high"]


def test_a_run_is_attacked_in_its_last_state(place, told, capsys):
    """The same as of the configuration that it is a run of."""
    run = ["run", str(place / "tiny.yaml"), "--out", str(place / "run"), "--quiet"]
    assert main(run) == 0
    out = str(place / "again.json")
    words = ["attack", str(place / "run"), "--attacks", "touched", "magnitudes", "--out", out]
    assert main([*words, *SMALL]) == 0
    assert "touched" in capsys.readouterr().out
    again = json.loads((place / "again.json").read_text())
    assert again["rows"] == told["rows"][:2] and again["bytes_up"] == told["bytes_up"]
    assert main([*words, *SMALL, "--rounds=3"]) == 2
    assert "a finished run is as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--attacks", "direction"], "no such attack (did you mean 'directions'?)"),
        (["--attacks", "attributes"], "tell neither gender nor age"),
        (["--attacks", "canaries"], "no section `privacy`"),
        (["--attacks", "recurring", "--observe", "1"], "needs two rounds or more"),
        (["--observe", "0"], "use --observe >= 1"),
        (["--attacks", "touched", "--strategy=central", "--strategy.fit=popularity",
          "--model=item_scores"], "nobody reads messages of single clients"),
        (["--ledger", "there.yaml"], "give one"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_in_one_line(place, capsys, words, line):
    assert main(["attack", str(place / "tiny.yaml"), "--rounds=1", *words]) == 2
    out, err = capsys.readouterr()
    *before, last = err.splitlines()
    assert out == "" and line in last and all(told.endswith("; dropped.") for told in before)


def test_a_mechanism_is_audited(place, capsys):
    noise = ["--privacy.clip={class_path: whole, init_args: {bound: 1.0}}"]
    noise += ["--privacy.noise_multiplier=2.0", "--rounds=1", "--cohorts=full"]
    assert main(["attack", str(place / "tiny.yaml"), "--attacks", "canaries", *noise]) == 0
    out = capsys.readouterr().out
    assert "accounted for as 2.25" in out and "at least 1." in out


def test_a_ledger_writes_a_section_and_a_figure(place, told):
    """Of what was found before; a run that is there is not run again."""
    (place / "found").mkdir()
    for name in ("fedmf", "fedmf again"):
        file = place / "found" / f"{name.replace(' ', '_')}.json"
        rows = told["rows"]
        if name == "fedmf again":
            rows = [row for row in rows if row["attack"] != "membership"]
            rows.append({"attack": "membership", "refused": "no shadow fits"})
        file.write_text(json.dumps({**told, "rows": rows, "name": name, "commit": "abc"}))
    (place / "page.md").write_text("# Page\n\nkept\n")
    plan = {
        "section": "Ledger", "page": str(place / "page.md"), "folder": str(place / "found"),
        "figure": str(place / "pictures" / "leaks.png"),
        "runs": [{"name": n, "config": "none.yaml"} for n in ("fedmf", "fedmf again")],
    }  # fmt: skip
    file = place / "ledger.yaml"
    file.write_text(yaml.safe_dump(plan))
    figure, page = run_ledger(file)
    text = page.read_text()
    assert figure.stat().st_size > 5000 and "kept" in text
    assert "| fedmf again | " in text and "pictures/leaks.png" in text and "1.00 ± 0.00" in text
    again = next(line for line in text.splitlines() if line.startswith("| fedmf again"))
    assert again.count(" n/a ") == 1 and "- membership: no shadow fits" in text
    run_ledger(file)
    assert page.read_text() == text
    with pytest.raises(ValueError, match="no such run"):
        run_ledger(file, ["nobody"])
    file.write_text(yaml.safe_dump({**plan, "pages": 1}))
    with pytest.raises(ValueError, match="did you mean 'page'"):
        run_ledger(file)
    with pytest.raises(ValueError, match="no such file"):
        run_ledger(place / "none.yaml")
