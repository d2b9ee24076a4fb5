"""Official MovieLens files of each release, in small."""

import pytest

from fedjax_rec.data.sources.atomic import read_atomic
from fedjax_rec.data.sources.movielens import GENRES, read_movielens, tidy_atomic, title_and_year


def flags(*genres):
    """The 19 flags of u.item."""
    return "|".join("1" if genre in genres else "0" for genre in GENRES)


def write(folder, **files):
    """Files by name, __ for the dot; bytes as they are."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def same(one, other):
    """All fields equal, bit for bit."""
    for field in ("users", "items", "times", "ratings", "user_names", "item_names"):
        a, b = getattr(one, field), getattr(other, field)
        assert a.dtype == b.dtype and a.tolist() == b.tolist(), field
    assert one.user_features.equals(other.user_features)
    assert one.item_features.equals(other.item_features)
    assert one.name == other.name


def test_100k_reads_the_same_from_official_and_atomic_files(tmp_path):
    rows = ["196\t242\t3\t881250949", "22\t267\t1\t878887116", "196\t1412\t5\t881250949"]
    official = write(
        tmp_path / "official",
        u__data="\n".join(rows) + "\n",
        u__item=(
            f"242|Misérables, Les (1995)|01-Jan-1995||http://x|{flags('Drama', 'Musical')}\n"
            f"267|unknown||||{flags('unknown')}\n"
            f"1412|Land III: The Time (1995) (V)|01-Jan-1995|||{flags('Animation')}\n"
            f"1500|Never Rated (1990)|||u|{flags('War')}\n"
        ).encode("latin-1"),
        u__user="22|25|M|writer|40206\n196|49|M|writer|55105\n",
    )
    atomic = tmp_path / "ml-100k"
    atomic.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (atomic / "ml-100k.inter").write_text(head + "\n".join(rows) + "\n")
    (atomic / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tMisérables, Les\t1995\tDrama Musical\n267\tunkonwn\tunkonwn\tunknown\n"
        "1412\tLand III: The Time (1995)\tV\tAnimation\n1500\tNever Rated\t1990\tWar\n",
        encoding="utf-8",
    )
    (atomic / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "22\t25\tM\twriter\t40206\n196\t49\tM\twriter\t55105\n"
    )
    data = read_movielens(official, "ml-100k")
    same(data, tidy_atomic(read_atomic(atomic)))
    assert data.item_names[data.items].tolist() == ["267", "242", "1412"]  # a tie keeps file order
    assert data.item_features.rows() == [
        ("Misérables, Les", "1995", "Drama Musical"),
        ("unknown", None, "unknown"),
        ("Land III: The Time", "1995", "Animation"),
    ]


def test_1m_with_double_colons(tmp_path):
    folder = write(
        tmp_path / "ml-1m",
        ratings__dat="2::6::3::9\n1::1193::5::978300760\n",
        movies__dat="6::Ace: When Nature Calls (1995)::Comedy\n"
        "1193::One Flew Over (1975)::Drama|War\n",
        users__dat="1::F::18::10::48067\n2::M::56::16::70072\n",
    )
    data = read_movielens(folder)
    assert data.ratings.tolist() == [5, 3] and data.times.tolist() == [978300760, 9]
    assert data.item_features.rows() == [
        ("Ace: When Nature Calls", "1995", "Comedy"),
        ("One Flew Over", "1975", "Drama War"),
    ]
    assert data.user_features.rows()[0] == ("18", "F", "10", "48067")
    assert data.user_features.columns == ["age", "gender", "occupation", "zip_code"]


def test_10m_without_users_and_25m_as_csv(tmp_path):
    ten = write(tmp_path / "ml-10M100K", ratings__dat="1::122::4.5::838985046\n")
    data = read_movielens(ten, "ml-10m")
    assert data.ratings.tolist() == [4.5] and data.user_features is None and data.name == "ml-10m"
    csv = write(
        tmp_path / "ml-25m",
        ratings__csv="userId,movieId,rating,timestamp\r\n1,296,5.0,1147880044\r\n1,306,3.5,3\r\n",
        movies__csv='movieId,title,genres\n296,"American President, The (1995)",Comedy|Drama\n'
        '306,"A ""B"" C",(no genres listed)\n',
    )
    data = read_movielens(csv)
    assert data.item_names[data.items].tolist() == ["306", "296"]
    assert data.item_features.rows() == [
        ("American President, The", "1995", "Comedy Drama"),
        ('A "B" C', None, None),
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"u__data": "1\t2\t3\t4\n1\t2\t3\n"}, r"u\.data:2: expected 4 tab-separated fields"),
        ({"ratings__dat": "1::2::3::4\n1:2::3::4\n"}, r"ratings\.dat:2: expected 4 '::'-separated"),
        ({"ratings__dat": "1::2::3:4\n"}, r"ratings\.dat:1: expected 4 '::'-separated"),
        ({"ratings__dat": "1::2::x::4\n"}, r"ratings\.dat:1: rating should be a number"),
        ({"ratings__csv": "1,2,3,4\n"}, r"ratings\.csv:1: expected the header"),
        (
            {"ratings__csv": "userId,movieId,rating,timestamp\n1,2,3,4\n1,2,,4\n"},
            r"ratings\.csv:3: rating is empty",
        ),
        ({"u__data": ""}, r"u\.data is empty"),
        ({"u__data": "1\t1\t1\t1\n", "u__user": "1|2\n"}, r"u\.user:1: expected 5 '\|'-separated"),
    ],
)
def test_a_bad_line_is_named(tmp_path, files, said):
    with pytest.raises(ValueError, match=said):
        read_movielens(write(tmp_path / "toy", **files))


def test_a_folder_without_ratings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of u\.data, ratings\.dat"):
        read_movielens(tmp_path)


@pytest.mark.parametrize(
    ("title", "split"),
    [
        ("Heat (1995)", ("Heat", "1995")),
        ("Cats (Les chats) (1990)", ("Cats (Les chats)", "1990")),
        ("2001 (Two Thousand One)", ("2001 (Two Thousand One)", None)),
        ("Land (1995) (V)", ("Land", "1995")),
    ],
)
def test_title_and_year(title, split):
    assert title_and_year(title) == split
