"""What counts as a copy of an old answer, and what as a user's manner, in several scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.agent.copying import BOUND, Copy, Said, _Runs, copied, copying

SAM = Said(
    "Sam invites me to dinner on Friday at seven. Write my reply.", "Dear Sam, I shall come at seven. Yours, Grace"
)
NOOR = Said(
    "Noor has a housewarming on Saturday. What do I write back?",
    "Dear Noor, I shall come, admire every cupboard and keep my views on the wallpaper. Yours, Grace",
)
ROBIN = "Robin invites me to a picnic on Sunday. Write my reply."

ALPHABETS = {
    "latin": "tea milk Jam über naïve ok",
    "cyrillic": "чай молоко Варенье да",
    "greek": "τσάι γάλα μέλι",
    "thai": "ชา นม น้ำผึ้ง",
    "chinese": "茶 牛奶 果酱",
    "japanese": "お茶 ミルク ジャム",
    "hindi": "चाय दूध शहद",
    "emoji": "🍵 hi !! ...",
}
texts = st.sampled_from(sorted(ALPHABETS)).flatmap(
    lambda script: st.lists(st.sampled_from(ALPHABETS[script].split()), max_size=12).map(" ".join)
)


def test_an_old_answer_under_a_new_request_is_a_copy_name_included() -> None:
    found = copied(NOOR.truth, [SAM, NOOR], [ROBIN])
    assert found.run == "dear noor i shall come admire every cupboard and keep my views on the wallpaper"
    assert found.words == 12  # "I shall come" stands in both
    assert found.share == pytest.approx(12 / 17)
    assert found.names == ("noor",)
    assert found.fault


def test_how_somebody_begins_and_ends_is_not() -> None:
    answer = "Dear Robin, I shall come, and bring the ants. Yours, Grace"
    found = copied(answer, [SAM, NOOR], [ROBIN])
    assert (found.words, found.names, found.fault) == (1, (), False)
    alone = copied(answer, [NOOR], [ROBIN])  # nobody can know that it is a habit
    assert (alone.run, alone.names) == ("i shall come", ("grace",))
    assert not copied(answer, [NOOR], [ROBIN, "signs off with “Yours, Grace”"]).fault


def test_what_the_request_says_may_be_said_again() -> None:
    again = "Noor invites me to a party on Saturday. I shall come, admire every cupboard and keep my views. Write that to her."
    found = copied("Dear Noor, I shall come, admire every cupboard and keep my views.", [NOOR], [again])
    assert found == Copy(words=2, share=2 / 12, run="dear noor")


@pytest.mark.parametrize(
    ("past", "answer", "names"),
    [
        (
            SAM,
            "ok SAM see you friday",
            ("sam",),
        ),  # Friday is of the old request alone: the old answer does not repeat it
        (Said("Write back.", "In for Friday. Arriving 19:15."), "arriving at 19:15 on Friday", ("19", "15", "friday")),
        (Said("Noor has a flat", "noor nice!! ill be there"), "noor nice, ill be there", ("noor",)),
        (Said("Write my reply.", "write to me, What a day"), "What to write", ()),
        (Said("Reply.", "Early night, I'm in. It'll be fun"), "I'm in, it'll do", ()),
        (Said("Schreib zurück.", "Ich bringe den Kuchen und Wein für dich mit"), "und dazu Kuchen", ()),
        (Said("Jonas fragt nach Kuchen.", "Lieber Jonas, ich bringe den Kuchen"), "Lieber Jonas", ("jonas",)),
        (Said("Борис зовёт в гости.", "Дорогой Борис, приду"), "Дорогой Борис", ("борис",)),
        (Said("七点吃饭", "好的,7点见"), "那就7点", ("7",)),
    ],
)
def test_names_and_numbers_of_an_old_answer(past: Said, answer: str, names: tuple[str, ...]) -> None:
    assert copied(answer, [past], [ROBIN]).names == names


def test_a_name_is_no_habit_because_two_requests_brought_it() -> None:
    twice = [Said("Noor has a cold.", "Get well, Noor!"), Said("Noor asks how I am.", "Fine, Noor.")]
    assert copied("Hello Noor", twice, [ROBIN]).names == ("noor",)
    wife = [Said("Who comes?", "I come, and Ruth comes."), Said("Who cooks?", "We do: dear Ruth and I.")]
    assert copied("Hello from Ruth", wife, [ROBIN]).names == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我会带着饺子来参加聚会的", 6),  # twelve characters
        ("ฉันจะนำขนมมางาน", 4),
        ("I'll come, as ever: with Tea!", 6),
        ("приду как всегда с чаем", 5),
        ("!!! ...", 0),
        ("", 0),
    ],
)
def test_words_of_any_script(text: str, words: int) -> None:
    found = copied(text, [Said("?", text)])
    assert found.words == words
    assert found.share == (1.0 if words else 0.0)
    assert copied(text.replace("'", "’").upper(), [Said("?", text)]).words == words


def test_long_texts_cost_little() -> None:
    long = " ".join(f"word{n % 700} and" for n in range(5_000))
    assert copied(" ".join(["and so on"] * 80), [Said("?", long), Said("?", "and")]).words == 1


def test_many_answers_are_summed_up() -> None:
    found = copying([Copy(words=BOUND), Copy(words=BOUND - 1, names=("sam",)), Copy(), Copy()])
    assert (found.mean, found.above, found.named, found.n) == (2.75, 0.25, 0.25, 4)
    assert copying([]).n == 0


def longest(answer: list[str], source: list[str]) -> int:
    """The longest common run, by trying all."""
    runs = {tuple(source[i:j]) for i in range(len(source)) for j in range(i + 1, len(source) + 1)}
    sizes = [j - i for i in range(len(answer)) for j in range(i + 1, len(answer) + 1) if tuple(answer[i:j]) in runs]
    return max(sizes, default=0)


words = st.lists(st.sampled_from(["tea", "чай", "ok", "über"]), max_size=14)


@given(words, words)
def test_the_run_is_the_longest(answer: list[str], source: list[str]) -> None:
    found = copied(" ".join(answer), [Said("", " ".join(source))])
    assert found.words == longest(answer, source)
    assert len(found.run.split()) == found.words


@given(texts, st.lists(texts, max_size=3), texts)
def test_what_may_be_repeated_makes_no_run_longer(answer: str, sources: list[str], allowed: str) -> None:
    said = [Said("", s) for s in sources]
    without, found = copied(answer, said), copied(answer, said, [allowed])
    assert 0 <= found.words <= without.words
    assert 0 <= found.share <= without.share <= 1
    assert set(found.names) <= set(without.names)
    everything = copied(answer, said, [answer])
    assert everything.words <= 1
    assert everything.names == ()


@given(texts, st.lists(texts, max_size=3))
def test_an_answer_that_was_given_is_a_copy_of_itself_until_it_is_a_habit(answer: str, others: list[str]) -> None:
    once = copied(answer, [Said("", answer)])
    assert once.share == (1.0 if once.words else pytest.approx(once.share))
    assert copied(answer, [Said("", t) for t in (answer, answer, *others)]).words <= 1


@given(st.lists(st.sampled_from("ab c"), max_size=9), st.lists(st.sampled_from("abcd "), max_size=12))
def test_runs_are_those_of_the_table(said: list[str], text: list[str]) -> None:
    places = range(len(said))
    table = [
        max(
            (
                k
                for k in range(1, at + 2)
                if any(text[j : j + k] == said[at + 1 - k : at + 1] for j in range(len(text)))
            ),
            default=0,
        )
        for at in places
    ]
    assert _Runs(said).within(text) == table


def test_one_word_again_and_again_takes_no_time() -> None:
    """A table of all equal words has 80 million cells here for each text."""
    assert copied("ha " * 400, [Said("Funny?", "ha " * 20_000)] * 3).words == 0  # what two texts say is a habit
    assert copied("ha " * 400, [Said("Funny?", "ha " * 20_000)]).words == 400
