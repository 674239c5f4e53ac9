from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from personaagent.tools.excerpts import PASSAGE, passages_of


def test_short_paragraphs_go_together_and_headings_begin_a_passage() -> None:
    text = "# Shop\n\n## Hours\n\nNine to five.\r\n\r\nClosed on Sundays.\n\n## Place\n\nBy the lake.\n\nFees\n====\n\nNone."
    assert passages_of(text) == [
        "# Shop\n\n## Hours\n\nNine to five.\n\nClosed on Sundays.",
        "## Place\n\nBy the lake.",
        "Fees\n====\n\nNone.",
    ]


def test_long_paragraphs_are_cut_where_something_ends() -> None:
    sentence = "The lake is cold in spring. "
    passages = passages_of("# Lake\n\n" + sentence * 60)
    assert passages[0].startswith("# Lake\n\nThe lake")
    assert all(p.endswith(".") for p in passages)
    assert [len(p) <= PASSAGE for p in passages_of("x" * 2_000)] == [True] * 4
    assert passages_of(" \n\n \n") == []


@given(st.text(alphabet=st.sampled_from("ab #=\n\r.,。-é"), max_size=400), st.integers(20, 90))
def test_passages_are_bounded_and_together_the_text(text: str, longest: int) -> None:
    passages = passages_of(text, longest)
    assert all(0 < len(p) <= longest for p in passages)
    assert "".join("".join(passages).split()) == "".join(text.split())
