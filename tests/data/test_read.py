"""Own data in one line: files, folders and tables of many shapes, and what is said of bad ones."""

import gzip
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from fedjax_rec import data
from fedjax_rec.data.splits import TEST, TRAIN, UNUSED, VALIDATION

# Three users with ids that numbers would spoil; five interactions, in no order.
ROWS = [
    ("ann", "007", 4.0, 1_300_000_000), ("bob", "007", 1.5, 1_300_000_060),
    ("ann", "12", 5.0, 1_200_000_000), ("cat", "x;y", 3.0, 1_300_000_000),
    ("bob", "12", 2.0, 1_100_000_000),
]  # fmt: skip


def history(found):
    """(user, item, rating, time), by names, in the order of the record."""
    ratings = [None] * len(found) if found.ratings is None else found.ratings.tolist()
    users, items = found.user_names[found.users], found.item_names[found.items]
    rows = zip(users.tolist(), items.tolist(), ratings, found.times.tolist(), strict=True)
    return list(rows)


EXPECTED = sorted(ROWS, key=lambda row: (row[0], row[3]))


def text(separator=",", header="userId,movieId,rating,timestamp", quote=False, rows=ROWS):
    shown = [[f'"{x}"' if quote else str(x) for x in row] for row in rows]
    lines = [separator.join(row) for row in shown]
    return "\n".join(([header.replace(",", separator)] if header else []) + lines) + "\n"


def frame(user="user_id", item="asin", rating="stars", time="date"):
    users, items, ratings, times = zip(*ROWS, strict=True)
    return {user: users, item: items, rating: ratings, time: times}


def zipped(name, content):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as pack:
        pack.writestr(name, content)
    return held.getvalue()


def dated(form):
    return [(*row[:3], str(np.datetime64(row[3], "s").item().strftime(form))) for row in ROWS]


FILES = {
    "plain.csv": text().encode(),
    "marked.csv": b"\xef\xbb\xbf" + text(header="uid,iid,score,ts").encode(),
    "wide.csv": text(header="User-ID,ISBN,Book-Rating,unixReviewTime").encode("utf-16"),
    "quoted.txt": text(";", quote=True).encode(),
    "crlf.tsv": text("\t").replace("\n", "\r\n").encode(),
    "bare.csv": text(header=None).encode(),
    "packed.csv.gz": gzip.compress(text().encode()),
    "packed.zip": zipped("inside.csv", text()),
    "double.dat": text("::", header=None).encode(),
    "bars.data": text("|", header="reviewerID,product_id,overall,time").encode(),
    "iso.csv": text(rows=dated("%Y-%m-%d %H:%M:%S")).encode(),
    "zoned.csv": text(rows=dated("%Y-%m-%dT%H:%M:%SZ")).encode(),
    "slashes.csv": text(rows=dated("%d/%m/%Y %H:%M:%S")).encode(),
    "lines.jsonl": pl.DataFrame(frame()).write_ndjson().encode(),
    "typed.csv": text(
        header="user_id:token,item_id:token,rating:float,timestamp:float").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_many_shapes_are_read_in_one_line(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(FILES[name])
    found = data.read(tmp_path / name)
    assert history(found) == EXPECTED
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and told.err.startswith(f"{tmp_path / name}: ")
    assert "user=" in told.err and not told.out


def test_binary_files_and_their_names(tmp_path):
    table = pl.DataFrame(frame())
    table.write_parquet(tmp_path / "a.parquet")
    table.write_ipc(tmp_path / "b.feather")
    silent = lambda line: None
    for name in ("a.parquet", "b.feather"):
        found = data.read(tmp_path / name, say=silent)
        assert history(found) == EXPECTED and found.name == name[0]
    assert data.read(tmp_path / "a.parquet", name="mine", say=silent).name == "mine"


class Series(list):
    """A column as pandas has it, of which only the values are asked for."""

    def to_numpy(self):
        return np.array(self, object)


class Frame(dict):
    """A frame as pandas has it: `columns`, and a column by its name."""

    columns = property(lambda self: list(self))


def arrow(columns):
    """A table as pyarrow has it."""
    listed = {name: SimpleNamespace(to_pylist=lambda x=x: list(x)) for name, x in columns.items()}

    class Arrow:
        def __init__(self):
            self.column_names = list(columns)

        def __getitem__(self, name):
            return listed[name]

    return Arrow()


@pytest.mark.parametrize(
    "make",
    [dict, pl.DataFrame, lambda x: pl.DataFrame(x).lazy(), arrow,
     lambda x: Frame({k: Series(v) for k, v in x.items()}),
     lambda x: {k: np.array(v) for k, v in x.items()}],
    ids=["dict", "polars", "lazy", "arrow", "frame", "numpy"],
)  # fmt: skip
def test_tables_of_programs(make):
    said = []
    assert history(data.read(make(frame()), say=said.append)) == EXPECTED
    (line,) = said
    assert line.startswith("table: user=user_id, item=asin, rating=stars, time=date (seconds)")


def test_frames_of_pandas():
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency")
    table = pandas.DataFrame(frame())
    table["date"] = pandas.to_datetime(table["date"], unit="s")
    assert history(data.read(table, say=lambda line: None)) == EXPECTED


def test_columns_are_named_or_counted_and_then_nothing_is_said(tmp_path, capsys):
    path = tmp_path / "odd.csv"
    path.write_text(text(header="who,what,liked,when"))
    named = data.read(path, user="who", item="what", rating="liked", time="when")
    assert history(named) == EXPECTED
    assert history(data.read(path, user=0, item=1, rating=2, time=3)) == EXPECTED
    assert not capsys.readouterr().err
    bare = data.read(path, user="who", item="what", rating="", time="")
    assert bare.ratings is None and bare.times.tolist() == [0, 2, 1, 4, 3]  # in the file's order


def test_dates_become_seconds_and_numbers_stay():
    table = {"user": [1, 1], "item": [1, 2]}
    read = lambda times, **kwargs: data.read(
        {**table, "time": times}, say=lambda line: None, **kwargs
    ).times.tolist()
    assert read(["2001-09-09", "2001-09-10"]) == [999993600, 1000080000]
    assert read(["2001-09-09T03:46:40+02:00", "2001-09-09T01:46:41.5Z"]) == [1e9, 1e9 + 1.5]
    assert read(["Sun Sep 09 01:46:40 +0000 2001"] * 2) == [1e9, 1e9]
    assert read(["09 9, 2001", "09 10, 2001"]) == [999993600, 1000080000]
    assert read(np.array([1, 2], "datetime64[s]")) == [1, 2]
    assert read([10**12, 10**12 + 5]) == [10**12, 10**12 + 5]
    assert read([20010909, 20010910], time_format="%Y%m%d") == [999993600, 1000080000]
    assert read(["03/04/2010", "05/16/2010"]) == [1267660800, 1273968000]  # no month is the 16th


def test_ambiguous_dates_are_asked_for():
    table = {"user": [1, 1], "item": [1, 2], "date": ["03/04/2010", "05/06/2010"]}
    with pytest.raises(ValueError, match=r"may be %d/%m/%Y or %m/%d/%Y; say which, time_format="):
        data.read(table)
    first, second = data.read(table, time_format="%m/%d/%Y", say=lambda line: None).times
    assert (second - first) / 86400 == 63  # from the 4th of March to the 6th of May


BAD = {
    "no_item.csv": ("user_id,rating\n1,2\n", "has no column that is called as items usually are"),
    "text.csv": ("user,item,rating\n1,2,3\n1,3,good\n", ":3: rating 'good' is no number"),
    "empty.csv": ("", "is empty; fetch or copy the file again"),
    "blank.csv": ("\n\n", "is empty"),
    "header.csv": ("user,item\n", "holds no interactions"),
    "gap.csv": ("user,item\n1,2\n,3\n", ":3: user (empty) is no id"),
    "nan.csv": ("user,item\n1,2\nnan,3\n", ":3: user 'nan' is no id"),
    "long.csv": ("user,item\n1,2\n1,2,3\n", ":3: expected 2 fields (user, item), found 3"),
    "lines.csv": ('user,item,rating\n1,"a\nb",2\n1,c,x\n', ":4: rating 'x' is no number"),
    "minus.csv": ("user,item,time\n1,2,5\n1,3,-1\n", ":3: time '-1' is before 1970"),
    "future.csv": (
        "user,item,time\n1,2,1300000000\n1,3,1300000001000\n1,4,1300000002\n",
        ":3: time '1300000001000' is before 1970 or after 2100 (most are seconds)",
    ),
    "date.csv": (
        "user,item,date\n1,2,2010-01-02\n1,3,soon\n1,4,2011-01-02\n",
        ":3: time 'soon' (column date) is no date %Y-%m-%d",
    ),
    "twice.csv": ("user,item,item\n1,2,3\n", ":1: column 'item' is there twice"),
    "book.xlsx": ("PK", "has the unknown extension '.xlsx'; save it as CSV or Parquet"),
    "one.csv": ("1\n2\n", "has one column"),
    "no.parquet": ("PAR", "is no whole parquet file"),
    "no.csv.gz": ("\x1f\x8bx", "cannot be unpacked"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_clear_line(tmp_path, name):
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        data.read(tmp_path / name, say=lambda line: None)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_wrong_places_columns_and_kinds(tmp_path):
    (tmp_path / "a.csv").write_text(text())
    for asked, said in [
        ({"user": "userid"}, r"no column user='userid' \(did you mean 'userId'\?\); it has userId"),
        ({"user": 7}, "has 4 columns, and user=7 is beyond"),
        ({"user": "userId", "item": "userId"}, "column 'userId' is taken for user and item"),
        ({"separator": "abc"}, "separator='abc' is none"),
        ({"split": "rating"}, r"a\.csv:2: split '4.0' \(column rating\) is no part; write train"),
    ]:
        with pytest.raises(ValueError, match=said):
            data.read(tmp_path / "a.csv", say=lambda line: None, **asked)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv does not exist"):
        data.read(tmp_path / "nowhere.csv")
    with pytest.raises(
        FileNotFoundError, match=r"holds no data; .*or name a file, such as .*a\.csv"
    ):
        data.read(tmp_path)
    with pytest.raises(ValueError, match="int is no table; give the path"):
        data.read(3)
    with pytest.raises(ValueError, match="columns of unequal length"):
        data.read({"user": [1, 2], "item": [1]})
    with pytest.raises(ValueError, match="table row 1: rating 'x' is no number"):
        data.read({"user": [1, 2], "item": [1, "a"], "rating": [1, "x"]})


def test_bad_rows_are_dropped_where_one_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,rating,time\n1,2,3,4\n,2,3,4\n1,3,x,4\n1,4,1,-4\n")
    said = []
    found = data.read(tmp_path / "a.csv", drop=True, say=said.append)
    assert history(found) == [("1", "2", 3.0, 4.0)]
    assert "3 of 4 rows dropped; the first:" in said[1] and "a.csv:3: user (empty)" in said[1]


def test_features_come_from_tables_beside(tmp_path):
    (tmp_path / "films.csv").write_text("movieId,title\n12,Twelve\n007,Seven\n99,Unseen\n")
    found = data.read(frame(), item_features=tmp_path / "films.csv", say=lambda line: None)
    assert dict(zip(found.item_names.tolist(), data.titles(found), strict=True)) == {
        "007": "Seven", "12": "Twelve", "x;y": "item x;y",
    }  # fmt: skip
    found = data.read(frame(), user_features={"user": ["bob"], "age": [3]}, say=lambda line: None)
    assert found.user_features["age"].to_list() == [None, 3, None]


INTER = "user_id:token\titem_id:token\ttimestamp:float\n"


def benchmark(folder, texts):
    folder.mkdir()
    for part, rows in texts.items():
        (folder / f"{folder.name}.{part}.inter").write_text(rows)
    return folder


def parts_of(found):
    items = found.item_names[found.items].tolist()
    users = found.user_names[found.users].tolist()
    return dict(zip(zip(users, items, strict=True), found.parts.tolist(), strict=True))


def test_benchmark_files_are_a_split(tmp_path):
    place = benchmark(tmp_path / "toy", {
        "train": INTER + "a\t1\t1\nb\t2\t5\n", "valid": INTER + "a\t2\t2\n",
        "test": INTER + "a\t3\t3\nb\t1\t6\n",
    })  # fmt: skip
    (place / "toy.link").write_text("")
    (place / "toy.item").write_text("item_id:token\ttitle:token_seq\n1\tOne\n")
    said = []
    found = data.read(place, say=said.append)
    assert parts_of(found) == {
        ("a", "1"): TRAIN, ("b", "2"): TRAIN, ("a", "2"): VALIDATION, ("a", "3"): TEST,
        ("b", "1"): TEST,
    }  # fmt: skip
    assert found.name == "toy" and data.titles(found)[0] == "One"
    assert said == [f"{place}: toy.link not read: graphs of knowledge or of friends have no use."]
    assert (data.as_given()(found).part == found.parts).all()
    (place / "toy.test.inter").write_text(INTER + "a\t3\tsoon\n")
    with pytest.raises(ValueError, match=r"toy\.test\.inter:2: time 'soon' \(column timestamp\)"):
        data.load(place)


def test_sequences_of_a_benchmark_are_one_history(tmp_path):
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    place = benchmark(tmp_path / "seq", {
        "train": head + "a\t1\t2\na\t1 2\t3\nb\t7\t8\n",
        "valid": head + "a\t2 3\t4\n",  # cut to the last two
        "test": head + "a\t3 4\t5\nc\t6\t9\n",
    })  # fmt: skip
    found = data.read(place)
    assert parts_of(found) == {
        ("a", "1"): TRAIN, ("a", "2"): TRAIN, ("a", "3"): TRAIN, ("a", "4"): VALIDATION,
        ("a", "5"): TEST, ("b", "7"): TRAIN, ("b", "8"): TRAIN, ("c", "6"): UNUSED,
        ("c", "9"): TEST,
    }  # fmt: skip
    mine = found.item_names[found.items[found.users == 0]]
    assert mine.tolist() == ["1", "2", "3", "4", "5"]


def test_a_row_may_be_a_sequence_with_its_times(tmp_path):
    path = tmp_path / "s.inter"
    path.write_text(
        "user_id:token\titem_id_list:token_seq\ttimestamp_list:float_seq\n"
        "a\t3 1 2\t30 10 20\nb\t1\t5\n"
    )
    found = data.read(path)
    assert found.item_names[found.items].tolist() == ["1", "2", "3", "1"]
    assert found.times.tolist() == [10, 20, 30, 5]
    path.write_text(path.read_text().replace("30 10 20", "30 10"))
    with pytest.raises(ValueError, match=r"s\.inter:2: timestamp_list has 2 values for 3 items"):
        data.read(path)
    lists = {"user": ["a", "b"], "items": [["x", "y"], ["y"]]}
    assert len(data.read(lists, say=lambda line: None)) == 3


def test_a_column_is_a_split_and_filters_keep_it():
    table = frame() | {"fold": ["train", "Train", "test", "valid", "test"]}
    found = data.read(table, split="fold", say=lambda line: None)
    split = data.as_given()(found)
    assert split.part.tolist() == [TEST, TRAIN, TEST, TRAIN, VALIDATION]
    left = data.k_core(found, users=2, items=1)
    assert left.parts.tolist() == [TEST, TRAIN, TEST, TRAIN] and left.num_users == 2
    with pytest.raises(ValueError, match="'table' has none; name its column"):
        data.as_given()(data.read(frame(), say=lambda line: None))
    with pytest.raises(ValueError, match="no row of 'table' is of the part train"):
        data.as_given()(data.read(frame() | {"fold": ["test"] * 5}, split="fold", say=str))
    with pytest.raises(ValueError, match=r"parts\[0\] = 5 is no part"):
        data.from_arrays("toy", [1], [1], parts=[5])


def test_windows_of_time():
    found = data.read(frame(), say=lambda line: None)
    times = lambda *bounds: data.between(found, *bounds).times.tolist()
    assert times("2008-01-01") == [1_200_000_000, 1_300_000_000, 1_300_000_060, 1_300_000_000]
    assert times(None, 1_300_000_000) == [1_200_000_000, 1_100_000_000]
    assert times("2005-01-01", "2011-03-13 07:07:00") == [1_200_000_000, 1_300_000_000, 1.3e9]
    milliseconds = data.read({**frame(), "date": [1000 * row[3] for row in ROWS]}, say=str)
    assert len(data.between(milliseconds, "2008-01-01")) == 4
    with pytest.raises(ValueError, match="leaves nothing of 'table', whose times go from 11000"):
        data.between(found, "2020-01-01")
    with pytest.raises(ValueError, match=r"between\(since\)='soon' is no date"):
        data.between(found, "soon")
    positions = data.read({"user": [1, 1], "item": [1, 2]}, say=str)
    with pytest.raises(ValueError, match="is a date, and the times of 'table' are numbers to 1"):
        data.between(positions, "2008-01-01")


def test_a_random_one_of_each_user_is_left_out():
    found = data.synthetic(num_users=200, num_items=60, interactions_per_user=8, seed=1)
    split = data.random_leave_one_out(seed=3)(found)
    for part in (VALIDATION, TEST):
        assert (np.bincount(found.users[split.part == part], minlength=200) == 1).all()
    assert (data.random_leave_one_out(seed=3)(found).part == split.part).all()
    assert (data.random_leave_one_out(seed=4)(found).part != split.part).any()
    start = np.searchsorted(found.users, np.arange(200))
    places = np.flatnonzero(split.part == TEST) - start
    sizes = np.bincount(found.users)
    assert abs((places / (sizes - 1)).mean() - 0.5) < 0.1  # 0.29 / sqrt(200) is a deviation of .02
    with pytest.raises(ValueError, match="random_leave_one_out needs 3 interactions a user"):
        data.random_leave_one_out()(data.read(frame(), say=str))


def test_a_million_rows_would_not_be_read_one_by_one(tmp_path, monkeypatch):
    """What names lines is called for lines that are wrong alone."""
    from fedjax_rec.data.sources import files

    monkeypatch.setattr(files, "_rows", None)
    (tmp_path / "a.csv").write_text(text(quote=True, header='"user","item","rating","time"'))
    assert len(data.read(tmp_path / "a.csv", say=str)) == 5


def test_official_files_bring_what_lies_beside_them(tmp_path, capsys):
    (tmp_path / "ratings.dat").write_text("1::122::4.5::838985046\n2::7::3::838985047\n")
    (tmp_path / "movies.dat").write_text("122::Boomerang (1992)::Comedy|Romance\n")
    for path in (tmp_path, tmp_path / "ratings.dat"):
        found = data.read(path, name="mine")
        assert data.titles(found, genres=False)[1] == "Boomerang (1992)" and found.name == "mine"
    assert not capsys.readouterr().err
    (tmp_path / "ratings.dat").unlink()
    # A file of that name in another form is read as any other.
    (tmp_path / "ratings.csv").write_text(text(header="user,item,rating,time"))
    assert history(data.read(tmp_path / "ratings.csv")) == EXPECTED


PADDED = {
    "spaced.csv": text(", "),
    "columns.txt": "user_id     item_id  rating  timestamp\n"
    + "".join(f"{u:<11} {i:<8} {r:<7} {t}\n" for u, i, r, t in ROWS if ";" not in i),
    "remarks.txt": "% bip weighted\n% 5 3 3\n" + text("\t", header=None),
    "numpy.csv": "# " + text(),
    "blank.csv": text() + "\n  \n\n",
    "old_mac.csv": text().replace("\n", "\r"),
}


@pytest.mark.parametrize("name", PADDED)
def test_what_stands_around_fields_and_lines_is_no_part_of_them(tmp_path, name):
    (tmp_path / name).write_bytes(PADDED[name].encode())
    wanted = [row for row in EXPECTED if name != "columns.txt" or ";" not in row[1]]
    assert history(data.read(tmp_path / name, say=lambda line: None)) == wanted


def test_lines_are_counted_below_remarks(tmp_path):
    (tmp_path / "k.txt").write_text("% a remark\n1\t2\t5\n1\t3\tgood\n")
    with pytest.raises(ValueError, match=r"k\.txt:3: rating 'good'"):
        data.read(tmp_path / "k.txt")


def test_json_of_one_array_or_of_columns_and_arrow_as_it_is_sent(tmp_path):
    table, silent = pl.DataFrame(frame()), lambda line: None
    (tmp_path / "a.json").write_text(table.write_json())
    columns = ", ".join(f'"{c}": {table[c].to_list()}'.replace("'", '"') for c in table.columns)
    (tmp_path / "b.json").write_text("{" + columns + "}")
    table.write_ipc_stream(tmp_path / "c.arrow")
    for name in ("a.json", "b.json", "c.arrow"):
        assert history(data.read(tmp_path / name, say=silent)) == EXPECTED


OFFICIAL = "userId,movieId,rating,timestamp\n"


def test_a_file_of_ones_own_called_as_movielens_calls_its_ratings(tmp_path):
    """Its dates are read, what is said of it is heeded, and films beside it are known."""
    mine = tmp_path / "mine" / "ratings.csv"
    mine.parent.mkdir()
    mine.write_text(text(rows=dated("%Y-%m-%d %H:%M:%S")))
    (mine.parent / "movies.csv").write_text("movieId,title,genres\n007,Heat (1995),Crime\n")
    for source in (mine, mine.parent):
        assert history(data.read(source, say=lambda line: None)) == EXPECTED
    mine.write_text(OFFICIAL + "1,007,4,1300000000\n1,8,good,1300000001\n2,8,3,1300000000\n")
    for source in (mine, mine.parent):
        said = []
        found = data.read(source, drop=True, say=said.append)
        assert len(found) == 2 and "1 of 3 rows dropped" in said[1]
        assert found.item_features["movie_title"].to_list() == ["Heat", None]
        assert data.read(source, drop=True, rating="", say=said.append).ratings is None
    with pytest.raises(ValueError, match=r"ratings\.csv:3: rating 'good'"):
        data.read(mine, header=True, say=said.append)
    mine.write_text("user;film;stars\nann;7;4\n")
    with pytest.raises(ValueError, match=r"no column that is called as items usually are"):
        data.read(mine.parent, say=said.append)
    found = data.read(mine.parent, item="film", separator=";", say=said.append)
    assert found.name == "mine" and found.user_names.tolist() == ["ann"]


def test_what_is_said_of_a_folder_is_heeded_or_refused(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:token\n"
    (folder / "own.item").write_text("item_id:token\ttitle:token_seq\n7\tHeat\n")
    (folder / "own.inter").write_text(head + "a\t7\t3\t01/02/2010\nb\t7\tgood\t01/03/2010\n")
    said = []
    for source in (folder, folder / "own.inter"):
        found = data.read(
            source, drop=True, time="timestamp", time_format="%d/%m/%Y", say=said.append
        )
        assert found.times.tolist() == [np.datetime64("2010-02-01").astype("M8[s]").astype(int)]
        assert found.item_features["title"].to_list() == ["Heat"]
        assert "1 of 2 rows dropped; the first:" in said.pop()
    for argument in ({"separator": ","}, {"header": False}):
        with pytest.raises(ValueError, match="is a folder, and separator= and header="):
            data.read(folder, **argument)
    (folder / "own.train.inter").write_text(head)
    (folder / "own.test.inter").write_text(head)
    data.read(folder, drop=True, time="", say=said.append)
    assert "own.inter is read whole, and own.test.inter, own.train.inter not" in said[0]
    (folder / "own.inter").rename(folder / "own.part1.inter")
    (folder / "own.test.inter").unlink()
    with pytest.raises(FileNotFoundError, match=r"several tables \(own\.part1\.inter, own\.train"):
        data.read(folder)


def test_splits_by_files_drop_what_is_wrong(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\n"
    (folder / "own.train.inter").write_text(head + "a\t7\t3\na\t8\tgood\n")
    (folder / "own.test.inter").write_text(head + "a\t9\t3\n")
    with pytest.raises(ValueError, match=r"own\.train\.inter:3: rating 'good'"):
        data.read(folder)
    assert data.read(folder, drop=True, say=lambda line: None).parts.tolist() == [TRAIN, TEST]


@pytest.mark.parametrize(
    ("table", "asked", "told"),
    [
        (
            {"user": [["a"], ["b"]], "item": [1, 2]},
            {"item": "item"},
            "'user', taken for user, hold",
        ),
        ({"user": [1], "item": [2], "rating": [[3]]}, {}, "'rating', taken for rating, holds List"),
        ({"user": [1], "item": [2]}, {"user": -1}, "2 columns, and user=-1 is beyond"),
        ({"user": [], "item": []}, {}, "table has no interactions"),
        ({}, {}, "but none at all"),
    ],
)
def test_tables_that_hold_something_else(table, asked, told):
    with pytest.raises(ValueError, match=told):
        data.read(table, say=lambda line: None, **asked)


def test_a_column_that_is_twice_in_a_frame():
    class Twice(Frame):
        columns = property(lambda self: ["user", "item", "item"])

    with pytest.raises(ValueError, match="table has column 'item' twice; rename one"):
        data.read(Twice(user=Series(["a"]), item=Series([1])))


def test_durations_are_times_and_features_may_call_their_ids_id():
    table = pl.DataFrame({"user": [1, 1], "item": [7, 8], "time": [60.0, 30.0]})
    table = table.with_columns(pl.duration(seconds=pl.col("time").cast(pl.Int64)).alias("time"))
    found = data.read(
        table, item_features={"id": [7, 8], "title": ["A", "B"]}, say=lambda line: None
    )
    assert found.times.tolist() == [30.0, 60.0]
    assert found.item_features["title"].to_list() == ["A", "B"]
    with pytest.raises(ValueError, match=r"but film, title; call that of its ids item_id\."):
        data.read(table, item_features={"film": [7], "title": ["A"]}, say=lambda line: None)
