"""Prompts by hand: who is asked about what, in which words and tokens."""

import numpy as np
import polars as pl
import pytest

from fedjax_rec import weights
from fedjax_rec.data import (
    from_arrays,
    last_of_users,
    last_ratings,
    liked_and_disliked,
    prompt_template,
    with_match,
    with_prior,
    without_history,
    without_title,
    yes_no_prompts,
)
from fedjax_rec.data.partition import Partition, by_hash
from fedjax_rec.data.sources.prompts import short_title
from fedjax_rec.data.splits import TEST, TRAIN, VALIDATION, Split

pytest.importorskip("tokenizers")
USERS, EACH, ITEMS = 12, 15, 30
HISTORY, LENGTH = 4, 13


@pytest.fixture(scope="module")
def ratings():
    """User u rates 15 films, one each 100 seconds; at the same moment as everybody else."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), EACH)
    items = np.concatenate([rng.permutation(ITEMS)[:EACH] for _ in range(USERS)])
    times = np.tile(np.arange(EACH) * 100.0, USERS) + users
    titles = pl.DataFrame(
        {
            "item_id": np.arange(ITEMS).astype(str),
            "title": [f"film{i} (1990)" for i in range(ITEMS)],
        }
    )
    values = rng.integers(1, 6, len(users)).astype(np.float32)
    return from_arrays("films", users, items, times=times, ratings=values, item_features=titles)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["Liked", "Disliked", ":", ";", "?", "Would", "the", "user", "like", "Answer"]
    words += [f"film{i}" for i in range(ITEMS)]
    made = Tokenizer(models.WordLevel({w: i + 1 for i, w in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    place = tmp_path_factory.mktemp("words")
    made.save(str(place / "tokenizer.json"))
    return place, dict(enumerate(words, 1))


@pytest.fixture(scope="module")
def prompts(ratings, folder):
    def make(**changes):
        arguments = {
            "shots": 8, "clients": 3, "history": HISTORY, "length": 60,
            "asking": last_ratings(100, 6), "words": liked_and_disliked(), **changes,
        }  # fmt: skip
        return yes_no_prompts(ratings, **{"tokenizer": folder[0], **arguments})

    return make


def bracketed(folder, place):
    """The tokenizer of `folder` in `place`, with a token before every text and one behind it."""
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(["<s>", "</s>"])
    ends = [(word, made.token_to_id(word)) for word in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.save(str(place / "tokenizer.json"))
    return [id for _, id in ends]


def test_prompts_end_where_the_answer_would_begin(ratings, folder, prompts, tmp_path):
    """Whatever the tokenizer closes a text with, and with what it opens one."""
    first, last = bracketed(folder[0], tmp_path)
    plain, made = prompts(), prompts(tokenizer=tmp_path)
    np.testing.assert_array_equal(made.fields["length"], plain.fields["length"] + 1)
    assert (made.fields["tokens"][:, 0] == first).all()
    np.testing.assert_array_equal(made.fields["tokens"][:, 1:], plain.fields["tokens"])
    tokens = weights.tokenizer(tmp_path)
    number = {word: id for id, word in folder[1].items()}
    two = [number["like"], number["?"]]
    assert weights.begun(tokens, ["like ?", ""]) == [[first, *two], [first]]
    assert weights.within(tokens, ["like ?", ""]) == [two, []] and last not in two


def said(made, i, words) -> str:
    row = made.fields["tokens"][i, : made.fields["length"][i]]
    return " ".join(words[t] for t in row)


def film(ratings, row) -> str:
    return f"film{ratings.item_names[ratings.items[row]]}"


def test_prompts_say_what_came_before_the_target(ratings, folder, prompts):
    made, words = prompts(), folder[1]
    want = {}
    for row in range(len(ratings)):
        user = ratings.users[row]
        first = int(np.flatnonzero(ratings.users == user)[0])
        before = range(max(first, row - HISTORY), row)
        text = ""
        for word, side in (("Liked", True), ("Disliked", False)):
            films = [film(ratings, r) for r in before if (ratings.ratings[r] > 3) == side]
            text += f"{word} : {' ; '.join(films)} " if films else ""
        text += f"Would the user like {film(ratings, row)} ? Answer :"
        want[text] = row
    asked = [want[said(made, i, words)] for i in range(len(made))]
    np.testing.assert_array_equal(made.fields["labels"], ratings.ratings[asked] > 3)
    part = by_hash(3)(Split(ratings, np.zeros(len(ratings), np.int8)))
    np.testing.assert_array_equal(made.client, part.client_of_user[ratings.users[asked]])
    np.testing.assert_array_equal(made.fields["prompt"], np.arange(len(made)))
    # In the order of time: to learn from, to choose by, to test on.
    times = [ratings.times[np.array(asked)[made.part == p]] for p in (TRAIN, VALIDATION, TEST)]
    assert times[0].max() <= times[1].min() and times[1].max() <= times[2].min()
    assert np.bincount(made.client[made.part == TRAIN]).tolist() == [8, 8, 8]
    assert [len(t) for t in times[1:]] == [6, 6]
    padding = np.arange(made.fields["tokens"].shape[1]) >= made.fields["length"][:, None]
    assert (made.fields["tokens"][padding] == 0).all()


def test_seeds_draw_other_shots_and_test_on_the_same(prompts):
    one, other, fewer = prompts(), prompts(seed=1), prompts(shots=3)
    text = lambda made, part: {tuple(x) for x in made.fields["tokens"][made.part == part][:, :9]}
    assert text(one, TEST) == text(other, TEST) == text(fewer, TEST)
    assert text(one, TRAIN) != text(other, TRAIN)
    assert text(fewer, TRAIN) < text(one, TRAIN)


def test_long_prompts_lose_their_oldest_films(folder, prompts):
    whole, cut = prompts(), prompts(length=LENGTH)
    assert whole.fields["length"].max() > LENGTH >= cut.fields["length"].max()
    for i in range(len(whole)):
        films = [[w for w in said(m, i, folder[1]).split() if "film" in w] for m in (whole, cut)]
        assert films[0][-1] == films[1][-1] and set(films[1]) <= set(films[0])
        if whole.fields["length"][i] <= LENGTH:
            assert films[0] == films[1]
    with pytest.raises(ValueError, match="has no room"):
        prompts(length=5)


def test_what_cannot_be_asked_is_refused(ratings, prompts):
    with pytest.raises(ValueError, match=r"shots=500\): client 0 has"):
        prompts(shots=500)
    with pytest.raises(ValueError, match="needs ratings and titles"):
        yes_no_prompts(from_arrays("bare", [0, 0, 1], [0, 1, 1]), shots=1)


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("Godfather, The (1972)", "The Godfather"),
        ("Toy Story (1995)", "Toy Story"),
        ("Cité des enfants perdus, La (City of Lost Children, The) (1995)",
         "La Cité des enfants perdus"),
        ("(500) Days", "Days"),
        ("(1995)", "(1995)"),
    ],
)  # fmt: skip
def test_titles_are_short(line, short):
    assert short_title(line) == short


def test_the_last_of_many_users_are_held_out(ratings, folder, prompts):
    asking = last_of_users(users=10, validation=1, test=2)
    asked = asking(ratings)
    assert len(np.unique(ratings.users[asked.test])) == 10
    first = np.arange(len(ratings)) % EACH  # places within a user
    assert set(first[asked.test]) == {EACH - 2, EACH - 1}
    assert set(first[asked.validation]) == {EACH - 3}
    assert 0 not in first[asked.train]
    everything = np.concatenate([asked.train, asked.validation, asked.test])
    assert len(np.unique(everything)) == len(everything) == len(ratings) - USERS
    made = prompts(asking=asking, shots=None)
    assert len(made) == len(everything)
    np.testing.assert_array_equal(made.fields["user"], ratings.users[everything])
    np.testing.assert_array_equal(asking(ratings).test, asked.test)
    # What is held out of a user is asked about after one history.
    films = [
        [w for w in said(made, i, folder[1]).split() if "film" in w]
        for i in np.flatnonzero((made.part != TRAIN) & (made.fields["user"] == asked_user(asked)))
    ]
    assert len(films) == 3 and len({frozenset(one[:-1]) for one in films}) == 1


def asked_user(asked):
    return asked.test[0] // EACH


def test_prompts_count_no_more_than_was_known(ratings, prompts):
    """Each feature by a loop over what came before, and over what is not held out."""
    asking = last_of_users(users=10)
    made, asked = prompts(asking=asking, shots=None), asking(ratings)
    out = np.concatenate([asked.validation, asked.test])
    rows = np.concatenate([asked.train, out])
    liked, held = ratings.ratings > 3, set(out.tolist())
    base = np.mean([liked[i] for i in range(len(ratings)) if i not in held])
    for row, found in zip(rows, made.fields["dense"], strict=True):
        mine = [i for i in range(row) if ratings.users[i] == ratings.users[row]]
        before = [i for i in mine if row not in held or i not in held]
        others = [
            i for i in range(len(ratings))
            if ratings.items[i] == ratings.items[row] and i != row and i not in held
        ]  # fmt: skip
        item = (sum(liked[i] for i in others) + base) / (len(others) + 1)
        want = np.mean(liked[before[-HISTORY:]]), item, np.mean(liked[before])
        np.testing.assert_allclose(found, want, rtol=1e-6)


def test_words_by_a_template():
    past = [("Heat", True), ("Casper", False)]
    words = prompt_template("{title} is {answer}", "{title} is", "; ", "Films: ", ("good", "bad"))
    assert words(past, "Fargo") == "Films: Heat is good; Casper is bad; Fargo is"
    assert prompt_template()([], "Fargo") == "Fargo:"
    with pytest.raises(ValueError, match=r"prompt_template\(ask='What\?'\) has no \{title\}"):
        prompt_template(ask="What?")


def test_places_of_vectors_are_among_the_tokens(ratings, folder, prompts):
    """Tokens are those without places; a place counts the tokens before it, and the other vector
    where that is before."""
    asking, ask = last_of_users(users=10), "{title} ?"
    plain = prompts(asking=asking, words=prompt_template("{title} {answer}", ask))
    assert "soft" not in plain.fields and plain.num_rows == ratings.num_items
    for more, places in (
        ("{user}{item}{title} ?", (-2, -1)),
        ("{item}{user}{title} ?", (-1, -2)),
        ("{user} {title} {item} ?", (-2, 0)),
    ):
        made = prompts(asking=asking, words=prompt_template("{title} {answer}", more))
        for name in ("tokens", "length", "item", "user"):
            np.testing.assert_array_equal(made.fields[name], plain.fields[name])
        # The last two tokens of a prompt are the title and the question mark.
        want = plain.fields["length"][:, None] + np.array(places)
        np.testing.assert_array_equal(made.fields["soft"], want)
    asked, items = asking(ratings), plain.fields["item"]
    for part, rows in ((VALIDATION, asked.validation), (TEST, asked.test)):
        np.testing.assert_array_equal(items[plain.part == part], ratings.items[rows])


def test_places_of_vectors_that_cannot_be_are_refused(prompts):
    with pytest.raises(ValueError, match=r"has \{user\} and no \{item\}; give a place to both"):
        prompt_template(ask="{user}{title}:")
    with pytest.raises(ValueError, match=r"has \{item\} and no \{user\}"):
        prompt_template(ask="{item}{title}:")
    with pytest.raises(
        ValueError, match=r"places the user's vector 2 times and the item's 1 times"
    ):
        prompts(words=prompt_template(ask="{user}{user}{item}{title}:"))
    with pytest.raises(ValueError, match=r"has a vector at the end of a prompt, where the answer"):
        prompts(words=prompt_template(ask="{title}{user}{item}"))


def test_users_are_grouped_as_asked(prompts):
    grouping = lambda split: Partition(np.arange(USERS, dtype=np.int32) % 2, 2)
    made = prompts(clients=2, shots=None, grouping=grouping)
    assert (made.client == made.fields["user"] % 2).all() and made.num_clients == 2
    with pytest.raises(ValueError, match=r"clients=3.*grouping makes 2"):
        prompts(clients=3, shots=None, grouping=grouping)


def test_codes_stand_where_words_say(ratings, folder, prompts):
    """As text, whose tokens are those of the words with it; whatever the tokenizer knows of it."""
    users = [f"film{u}" for u in range(USERS)]
    items = [f"film{ITEMS - 1 - i}" for i in range(ITEMS)]
    words = prompt_template("{title} {answer}", "like {user} the {item} ? {title}")
    made = prompts(words=words, codes=lambda: (users, items), asking=last_of_users(users=10))
    plain = prompts(
        words=prompt_template("{title} {answer}", "{title}"), asking=last_of_users(users=10)
    )
    assert "soft" not in made.fields
    for i in range(len(made)):
        user, item = made.fields["user"][i], made.fields["item"][i]
        *before, title = said(plain, i, folder[1]).split()
        code = f"like {users[user]} the {items[item]} ?".split()
        assert said(made, i, folder[1]).split() == [*before, *code, title]
    with pytest.raises(ValueError, match=r"the words have no place for them"):
        prompts(codes=lambda: (users, items))
    with pytest.raises(ValueError, match=r"codes of 3 users and 30 items and the data have 12 and"):
        prompts(words=words, codes=lambda: (users[:3], items))


def test_prompts_beside_say_less(ratings, folder, prompts):
    words = prompt_template("{title} {answer}", "{title} ?")
    made = lambda words: prompts(words=words)
    asked, other = made(words), {
        "title": made(without_title(words, "Answer")), "history": made(without_history(words)),
    }  # fmt: skip
    for i in (0, 7, len(asked) - 1):
        *before, title, mark = said(asked, i, folder[1]).split()
        assert said(other["title"], i, folder[1]).split() == [*before, "Answer", mark]
        assert said(other["history"], i, folder[1]).split() == [title, mark]
    both = with_prior(asked, other["history"])
    np.testing.assert_array_equal(both.fields["prior_length"], other["history"].fields["length"])
    np.testing.assert_array_equal(both.fields["tokens"], asked.fields["tokens"])
    with pytest.raises(ValueError, match=r"the second prompts are about other users or items"):
        with_prior(asked, prompts(words=words, seed=1))


def test_a_factorization_stands_beside_what_counting_says(prompts, tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    users, items = (np.float32(rng.normal(size=(n, 4))) for n in (USERS, ITEMS))
    file = tmp_path / "weights.safetensors"
    save_file({"private/user": users[:, None], "shared/item": items}, file)
    made, plain = with_match(prompts(), str(tmp_path)), prompts()
    np.testing.assert_array_equal(made.fields["dense"][:, :3], plain.fields["dense"])
    columns = *(made.fields[x] for x in ("user", "item")), made.fields["dense"][:, 3]
    for user, item, z in zip(*columns, strict=True):
        want = users[user, 3] + items[item, 3] + users[user, :3] @ items[item, :3]
        np.testing.assert_allclose(z, want, rtol=1e-5)
    save_file({"private/user": users[:2], "shared/item": items}, file)
    with pytest.raises(ValueError, match=r"of 2 users and 30 items and prompts about user 11"):
        with_match(prompts(), str(tmp_path))
