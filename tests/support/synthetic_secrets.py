"""Made-up secrets. None was ever valid; they are put together here, so that no scanner takes this file for a leak."""

from __future__ import annotations

import string

from hypothesis import strategies as st

SECRETS = [
    "sk-" + "proj-abcDEF123456789xyz",
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "gh" + "p_abcdefghijklmnopqrstuvwxyz0123456789",
    "github" + "_pat_abcdefghijklmnopqrstuv",
    "xox" + "b-1234567890-abcdef",
    "AI" + "zaSyA1234567890abcdefghijklmnopqrstu",
    "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
    "-----BEGIN " + "RSA PRIVATE KEY-----",
    "https://joe:" + "hunter2@example.com/",
    "the password is hunter2",
    "Password for the wifi: hunter2",
    "das Passwort lautet geheim",
    "le mot de passe est soleil",
    "la contraseña es secreto",
    "密码是 abc",
    "api_key=" + "abc123456",
    "PIN code: 4711",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "0123456789abcdef" * 2,
    "550e8400-e29b-41d4-a716-446655440000",
    "dGhpcyBpcyBhIHNlY3JldCBrZXkgMTIz" + "NDU2Nzg5MA==",
    "q7w8e9r0t1y2u3i4o5p6a7s8d9f0",
]


def _luhn(body: str) -> str:
    """With the digit that Luhn's check asks for."""
    total = sum(sum(divmod(2 * int(d), 10)) if n % 2 == 0 else int(d) for n, d in enumerate(reversed(body)))
    return body + str(-total % 10)


def _iban(country: str, body: str) -> str:
    number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    return f"{country}{98 - number % 97:02d}{body}"


CARD = st.tuples(
    st.sampled_from(["4", "51", "55", "2221", "34", "37", "6011"]), st.text(string.digits, min_size=15, max_size=15)
).map(lambda parts: _luhn((parts[0] + parts[1])[:15]))
IBAN = st.one_of(
    st.text(string.digits, min_size=18, max_size=18).map(lambda body: _iban("DE", body)),
    st.text(string.digits, min_size=11, max_size=11).map(lambda body: _iban("NO", body)),
    st.text(string.digits, min_size=14, max_size=14).map(lambda body: _iban("GB", "WEST" + body)),
    st.text(string.ascii_uppercase + string.digits, min_size=23, max_size=23).map(lambda body: _iban("FR", body)),
)
