from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from personaagent.errors import InvalidInput, StoreError
from personaagent.memory.privacy import Cipher, Redactor
from personaagent.types import Interaction, utc_now

fernet = pytest.importorskip("cryptography.fernet")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_encrypted_comes_back_and_cannot_be_read(text: str) -> None:
    cipher = Cipher(SecretStr(fernet.Fernet.generate_key().decode()))
    token = cipher.encrypt(text)
    assert cipher.decrypt(token) == text
    assert len(text) < 4 or text not in token


def test_keys_rotate() -> None:
    old, new = (fernet.Fernet.generate_key().decode() for _ in range(2))
    token = Cipher(SecretStr(old)).encrypt("secret")
    assert Cipher(SecretStr(f"{new},{old}")).decrypt(token) == "secret"
    with pytest.raises(StoreError, match="encryption_key"):
        Cipher(SecretStr(new)).decrypt(token)


def test_a_bad_key_says_how_to_make_one() -> None:
    with pytest.raises(InvalidInput, match="generate_key"):
        Cipher(SecretStr("hunter2"))


def test_personal_data_is_replaced_and_choices_still_match() -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the privacy extra")
    redactor = Redactor()
    said = "write to ada@example.org or call +44 20 7946 0958"
    assert "ada@" not in redactor.text(said)
    assert "7946" not in redactor.text(said)
    closed = Interaction(
        id="1", user="u", time=utc_now(), query=said, truth="ada@example.org", choices=("ada@example.org", "none")
    )
    kept = redactor.interaction(closed)
    assert kept.truth in (kept.choices or ())
    assert "ada@" not in kept.query
