from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.tools.html_text import html_text

MARKUP = "< > </ <! <![ <!-- --> <? & &# &#x ; ' \" = / a p script <script> </script> <p> <b 99999999999 İ ]]>"
PIECES = st.sampled_from([*MARKUP.split(), "\x00", "\ud800", " ", "\n", "<b x='>'>"])


def test_a_page_becomes_its_paragraphs() -> None:
    page = (
        "<html><head><title>Hours</title><style>p {}</style></head><body><h2>Open &amp; closed</h2>"
        "<p>From <b>nine</b><br>to five<ul><li>Monday<li>Friday</ul><table><tr><td>a<td>b</table>"
        "<a title='a > b'>link</a> 1 < 2 <script>if (a<b) {}</script><!-- <p>hidden --> end"
    )
    assert html_text(page).split("\n") == [
        *("Hours", "", "## Open & closed", "", "From nine", "to five", "", "- Monday", "- Friday", "", "a b", ""),
        "link 1 < 2 end",
    ]


@given(st.lists(PIECES | st.text(max_size=5), max_size=60).map("".join))
def test_whatever_a_page_holds_there_is_a_text(page: str) -> None:
    assert isinstance(html_text(page), str)


@given(st.text(alphabet=st.characters(exclude_characters="<&", exclude_categories=["Zs", "Cc", "Cs"]), max_size=50))
def test_text_without_markup_stays(text: str) -> None:
    assert html_text(f"<p>{text}</p>").split() == text.split()


@pytest.mark.parametrize(
    "piece", ["<", "<a '", '<a ="', "<a x='>", "<a b='' >", "<!--", "<![", "<script>", "&#9", "<p ='x' "]
)
def test_malformed_pages_take_no_longer_than_others(piece: str) -> None:
    began = time.process_time()
    html_text(piece * (300_000 // len(piece)))
    assert time.process_time() - began < 2.0


def test_a_number_of_many_digits_is_no_character() -> None:
    assert html_text(f"a&#{'9' * 10_000};b") == "a�b"
