from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.errors import InvalidInput
from personaagent.tools.url_template import UrlTemplate

TEMPLATE = "https://api.example.org:8443/v1/{city}/day-{day}/weather?units=metric&q={q}"
NASTY = st.sampled_from(
    [*"./\\@#?&=:;+%[] é🌧", "..", "%2e%2e", "%2f", "//evil.example", "\r\n", "\x00", "../../admin", "a/../b", "\ud800"]
)
TEXTS = st.lists(NASTY | st.text(max_size=6), max_size=4).map("".join)


def filled(template: str, further: dict[str, Any] | None = None, **arguments: Any) -> httpx.URL:
    return UrlTemplate(template, "tool 'w'").filled(arguments, further or {})


def test_arguments_stand_in_path_and_query() -> None:
    url = filled(TEMPLATE, {"tags": ["a&b", "c"], "none": None, "deep": {"x": 1}}, city="São Tomé/AC", day=3, q="a=b&c")
    assert str(url).startswith(
        "https://api.example.org:8443/v1/S%C3%A3o%20Tom%C3%A9%2FAC/day-3/weather?units=metric&q="
    )
    assert parse_qsl(url.query.decode()) == [
        *(("units", "metric"), ("q", "a=b&c"), ("tags", "a&b"), ("tags", "c"), ("deep", '{"x": 1}')),
    ]
    assert str(filled("http://a.example/{x}?b={y}", x=1.5, y=True)) == "http://a.example/1.5?b=true"
    assert str(filled("http://a.example")) == "http://a.example/"


@given(city=TEXTS, day=TEXTS | st.integers() | st.booleans(), q=TEXTS, name=TEXTS, more=TEXTS)
def test_no_argument_leads_to_another_place(city: str, day: Any, q: str, name: str, more: str) -> None:
    try:
        url = filled(TEMPLATE, {name: more}, city=city, day=day, q=q)
    except InvalidInput:
        return
    assert (url.scheme, url.host, url.port, url.userinfo, url.fragment) == ("https", "api.example.org", 8443, b"", "")
    path, _, query = url.raw_path.decode().partition("?")
    segments = path.split("/")
    assert len(segments) == 5
    assert (segments[1], segments[4]) == ("v1", "weather")
    assert unquote(segments[3]).startswith("day-")
    for segment in segments[1:]:
        assert not {"", ".", ".."} & set(unquote(segment).replace("\\", "/").split("/"))
    pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    assert [key for key, _ in pairs[:2]] == ["units", "q"]
    assert pairs[0] == ("units", "metric")
    assert len(pairs) == 3


@pytest.mark.parametrize(
    "city", ["", ".", "..", "../x", "a/../b", "..\\x", "..;", "x\n", "\x00", None, ["a"], {"a": 1}]
)
def test_what_would_lead_elsewhere_or_is_no_value_is_refused(city: Any) -> None:
    with pytest.raises(InvalidInput):
        filled("https://a.example/{city}", city=city)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    with pytest.raises(InvalidInput):
        filled("https://a.example/{n}", n=number)


def test_a_url_has_a_length() -> None:
    with pytest.raises(InvalidInput, match="shorten"):
        filled("https://a.example/?q={q}", q="x" * 9_000)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://a.example/", "write it as https"),
        ("/path", "write it as https"),
        ("https:///path", "write it as https"),
        ("https://{host}/x", "path and the query"),
        ("https://a.example:{port}/x", "is none"),
        ("https://user:secret@a.example/", "headers"),
        ("https://a.example/x#{part}", "path and the query"),
        ("https://a.example/{a b}", "brackets"),
        ("https://a.example/{x", "brackets"),
        ("https://a.example:99999/", "is none"),
        ("https://[::1/", "is none"),
    ],
)
def test_urls_that_could_not_work_are_told_at_the_start(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as e:
        UrlTemplate(url, "tool 'w'")
    assert e.value.message.startswith("tool 'w': ")
    assert "secret" not in e.value.message
