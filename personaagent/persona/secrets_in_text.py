"""Secrets in texts, found by their form: keys, tokens, passwords, payment cards and bank accounts."""

from __future__ import annotations

import re

__all__ = ["holds_secret"]

_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bsk-[A-Za-z0-9_-]{16,}|\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}",
        r"\bxox[abeprs]-[\w-]{10,}|\bAIza[\w-]{30,}|\bhf_[A-Za-z0-9]{20,}",
        r"\beyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*",
        r"-----BEGIN [A-Z ]+-----",
        r"://[^\s/:@]+:[^\s/@]+@",
        r"(?i)\b[0-9a-f]{32,}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
        r"(?i)\b(?:password|passphrase|passcode|passwd|pwd|passwort|kennwort|mot de passe|contraseña|contrasena|senha|пароль)\b"
        r"(?!\s*managers?)(?:\s+\w+){0,3}?\s*(?:\b(?:is|was|ist|lautet|est|es|é)\b|:|=)\s*\S|密码\s*(?:是|:|=)",
        r"(?i)\b(?:api[ _-]?key|secret[ _-]?key|access[ _-]?token|token|secret)\s*(?:is|ist|est|es|:|=)\s*(?=\S*\d)\S{6,}",
        r"(?i)\b(?:password|passphrase|passcode|passwd|pwd|pw|passwort|kennwort)\b[\s:]*(?=[^\s]*\d)(?=[^\s]*[a-z])[^\s]{5,}",
        r"(?i)(?<!\S)(?=[^\s]*\d)(?=[^\s]*[a-z])[^\s]{5,} as (?:\w+ )?(?:password|passphrase|pin)\b",
        r"(?i)\bapi[ _-]?key\s+(?=[^\s]*\d)(?=[^\s]*[a-z])[^\s]{8,}",
        r"\bpk_(?:live|test)_[A-Za-z0-9]{10,}|\bnpm_[A-Za-z0-9]{20,}|\bSG\.[\w-]{10,}\.[\w-]{10,}|\bya29\.[\w-]{10,}",
        r"(?i)\b(?:pin|cvv|cvc)(?:[ -]?(?:code|number|nummer))?\s*(?:is|ist|est|es|lautet|:|=)?\s*\d{3,8}\b",
    )
)
_TOKEN = re.compile(r"[A-Za-z0-9+/_-]{28,}={0,2}")
_DIGITS = re.compile(r"(?<![\d+])\d(?:[ .-]?\d){12,18}(?!\d)")
_ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")
_IBAN_COUNTRIES = {  # by length
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_IBAN_LENGTHS = {code: size for size, codes in _IBAN_COUNTRIES.items() for code in codes.split()}


def holds_secret(text: str) -> bool:
    """Whether there is something in it that looks like a secret; `text` is in compatibility form (NFKC)."""
    if any(pattern.search(text) for pattern in _SECRETS):
        return True
    if any(_random(token) for token in _TOKEN.findall(text)):
        return True
    if any(_is_card(re.sub(r"\D", "", digits)) for digits in _DIGITS.findall(text)):
        return True
    return any(_is_iban(re.sub(r"[ -]", "", account)) for account in _ACCOUNT.findall(text.upper()))


def _random(token: str) -> bool:
    """Whether it looks like a key: one piece of it mixes letters and digits as words, names and paths do not."""
    return any(
        len(piece) >= 16
        and (
            all(re.search(kind, piece) for kind in (r"[0-9]", r"[a-z]", r"[A-Z]"))
            or len(re.findall(r"[A-Za-z][0-9]|[0-9](?=[A-Za-z])", piece)) >= 6
        )
        for piece in re.split(r"[/_-]", token)
    )


def _is_card(digits: str) -> bool:
    """Whether the digits begin like a payment card's and pass Luhn's check."""
    if not re.match(r"4|5[1-5]|2[2-7]|3[4-7]|6", digits):
        return False
    doubled = (sum(divmod(2 * int(d), 10)) if n % 2 else int(d) for n, d in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0


def _is_iban(account: str) -> bool:
    """Whether an IBAN begins here: of its country's length, with the right check digits."""
    size = _IBAN_LENGTHS.get(account[:2])
    if size is None or len(account) < size:
        return False
    number = "".join(str(int(c, 36)) for c in account[4:size] + account[:4])
    return int(number) % 97 == 1
