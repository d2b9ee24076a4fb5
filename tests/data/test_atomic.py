"""RecBole atomic folders: what is read, and what is said of a bad line."""

import os
from pathlib import Path

import pytest

from fedjax_rec.data.sources.atomic import read_atomic

SHARED = Path(os.environ.get("FEDJAX_REC_DATA") or Path(__file__).parents[3] / "shared" / "data")
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def folder(tmp_path, inter, **others):
    """A folder `toy` with toy.inter and, say, toy.item."""
    place = tmp_path / "toy"
    place.mkdir()
    for kind, text in {"inter": inter, **others}.items():
        (place / f"toy.{kind}").write_bytes(text.encode())
    return place


def test_reads_rows_ratings_and_features(tmp_path):
    place = folder(
        tmp_path,
        HEADER + "b\t10\t4\t2.5\na\t9\t1\t7\nb\t9\t5\t1\n",
        item="item_id:token\ttitle:token_seq\tprice:float\tplace:float_seq\n"
        '9\tThe "Nine\t1.5\t1 2.5\n11\tNever seen\t3\t\n10\tTen\t\t-1 0\n',
        user="user_id:token\tage:token\na\t30\n",
    )
    data = read_atomic(place)
    assert data.name == "toy"
    assert data.user_names.tolist() == ["a", "b"] and data.item_names.tolist() == ["9", "10"]
    assert data.users.tolist() == [0, 1, 1] and data.items.tolist() == [0, 0, 1]
    assert data.times.tolist() == [7, 1, 2.5] and data.ratings.tolist() == [1, 5, 4]
    assert data.item_features.rows() == [
        ('The "Nine', 1.5, [1.0, 2.5]),
        ("Ten", None, [-1.0, 0.0]),
    ]
    assert data.user_features["age"].to_list() == ["30", None]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_in_any_order_without_ratings_and_times(tmp_path, end):
    lines = ["item_id:token\tnote:token\tuser_id:token", "5\t\tu", "3\tx\tu", ""]
    data = read_atomic(folder(tmp_path, end.join(lines)))
    assert data.ratings is None
    assert data.item_names[data.items].tolist() == ["5", "3"]  # rows count as in time order


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (HEADER + "1\t2\t3\t4\n1\t2\n", 3, r"expected 4 tab-separated fields \(user_id, item_id"),
        (HEADER + "1\t2\t3\t4\t5\n", 2, "found 5; fix or remove the line"),
        (HEADER + "1\t2\t3\t4\n\n1\t3\t3\t4\n", 3, "found an empty line"),
        (HEADER + "1\t2\t3\t4\n1\t2\tgood\t4\n", 3, "rating should be a number, found 'good'"),
        (HEADER + "1\t2\t3\tnan\n", 2, "timestamp should be a number, found 'nan'"),
        (HEADER + "1\t2\t3\t4\n1\t3\t\t5\n", 3, "rating is empty"),
        (HEADER + "1\t2\t3\t4\n\t3\t1\t5\n", 3, "user_id is empty"),
        (HEADER + "1\t2\t3\t\n", 2, "timestamp is empty"),
        ("user_id\titem_id\n1\t2\n", 1, "expected a header of name:type fields"),
        ("user_id:token\tmovie:token\n1\t2\n", 1, "column 'item_id' is missing among user_id"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, line, said):
    place = folder(tmp_path, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_atomic(place)
    assert str(caught.value).startswith(f"{place / 'toy.inter'}:{line}: ")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text_are_named(tmp_path):
    place = folder(tmp_path, HEADER)
    (place / "toy.inter").write_bytes(HEADER.encode() + b"1\t2\t3\t4\n\xff\t2\t3\t4\n")
    with pytest.raises(ValueError, match=r"toy\.inter:3: not UTF-8"):
        read_atomic(place)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "item_id:token\tprice:float\n1\tcheap\n",
            2,
            "price should be of type float, found 'cheap'",
        ),
        ("item_id:token\tprice:float_seq\n1\t1 x\n", 2, "price should be of type float_seq"),
        ("item_id:token\tt:token\n1\ta\n2\n", 3, "expected 2 tab-separated fields"),
        ("item_id:token\tt:token\n1\ta\n1\tb\n", 3, "item_id '1' is described in line 2 already"),
        ("t:token\titem_id:token\na\t1\n", 1, "put 'item_id' first"),
    ],
)
def test_a_bad_feature_line_is_named(tmp_path, text, line, said):
    place = folder(tmp_path, HEADER + "1\t1\t1\t1\n", item=text)
    with pytest.raises(ValueError, match=said) as caught:
        read_atomic(place)
    assert str(caught.value).startswith(f"{place / 'toy.item'}:{line}: ")


def test_missing_empty_and_headed_only_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"toy\.inter is missing"):
        read_atomic(tmp_path / "toy")
    place = folder(tmp_path, "")
    with pytest.raises(ValueError, match=r"toy\.inter is empty"):
        read_atomic(place)
    (place / "toy.inter").write_text(HEADER)
    with pytest.raises(ValueError, match="holds no interactions"):
        read_atomic(place)


def test_movielens_1m_as_rebuilt():
    if not (SHARED / "ml-1m" / "ml-1m.inter").is_file():
        pytest.skip(f"ml-1m.inter is not under {SHARED}")
    data = read_atomic(SHARED / "ml-1m")
    assert (data.num_users, data.num_items, len(data)) == (6040, 3416, 999601)
    assert data.user_features.height == 6040 and data.item_features.height == 3416
    assert data.item_features["movie_title"].null_count() == 0
    assert data.item_names[0] == "1" and data.item_features["movie_title"][0] == "Toy Story"
    # The first user's history, as the file has it.
    with (SHARED / "ml-1m" / "ml-1m.inter").open() as file:
        rows = [line.split("\t") for line in file if line.startswith("1\t")]
    assert data.item_names[data.items[data.users == 0]].tolist() == [row[1] for row in rows]
