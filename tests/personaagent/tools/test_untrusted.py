from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.tools.untrusted import as_data, cleaned

TOKENS = [
    "<|im_start|>",
    "<|eot_id|>",
    "<｜User｜>",
    "<｜end▁of▁sentence｜>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[/TOOL_RESULTS]",
    "<<SYS>>",
    "<s>",
    "<bos>",
    "</think>",
    "<start_of_turn>",
    "<tool_call>",
    "</data>",
]


@pytest.mark.parametrize("token", TOKENS)
def test_no_token_of_a_template_is_left(token: str) -> None:
    assert token not in cleaned(f"a {token} b")
    assert token.upper() not in cleaned(f"a {token.upper()} b")


@given(st.lists(st.sampled_from([*TOKENS, "<", "|", ">", "[", "]", "x", "/"]), max_size=12).map("".join))
def test_none_is_made_by_taking_out_another(text: str) -> None:
    assert not any(token in cleaned(text) for token in TOKENS)
    assert as_data("f", text).count("</data>") == as_data(text, "x").count("</data>") == 1
    assert not any(token in as_data(f"{text}\n{text}", "x").splitlines()[0] for token in TOKENS)


def test_what_is_no_token_stays() -> None:
    assert cleaned("a < b, list[0], <b>bold</b>, [args], x | y").startswith("a < b, list[0], <b>bold</b>")


@pytest.mark.parametrize("piece", ["<|", "[", "</tool_call", "<|x", "<｜"])
def test_a_megabyte_takes_no_time(piece: str) -> None:
    began = time.process_time()
    cleaned(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 2
