"""Orders to the system in texts that should be about a user ("ignore the instructions above"), in several languages.

Imperatives count, with an object that only the system has: "ignores rules of grammar" is a claim about a user, "ask for the
train first" is how one wants to be served, and "never skip the instructions of a recipe" is a wish.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["is_order"]

_THE = (
    r"(?:all|any|every|each|the|my|our|your|its|these|those|this|previous|prior|above|earlier|preceding|existing|former|"
    r"other|system|safety|of|and)"
)
_LAW = (
    r"(?:instructions?|prompts?|rules?|guidelines?|guardrails?|polic(?:y|ies)|directives?|directions|commands?|orders|"
    r"restrictions?|constraints|programming|system)"
)
_IGNORE = (
    r"(?:ignore|disregard|forget|override|overrule|overwrite|bypass|circumvent|disobey|neglect|"
    r"(?:do not|don'?t|never|stop) (?:follow(?:ing)?|obey(?:ing)?|apply(?:ing)?|listen(?:ing)? to))"
)
_TELL = (
    r"(?:reveal|show|print|repeat|output|leak|disclose|display|expose|tell|give|share|dump|recite|write out|list|send|"
    r"access|read|look up)"
)
_PRIVATE = (
    r"(?:data|messages?|personas?|profiles?|histor(?:y|ies)|secrets?|claims?|requests?|records?|memor(?:y|ies)|"
    r"conversations?)"
)
_OTHERS = r"(?:other|another|all|every|any|any other|different|a different)"
_FEW = r"(?:\W+\w+){0,4}?\W+"  # words between

_ENGLISH = (
    rf"\b{_IGNORE}(?:\W+{_THE})+\W+{_LAW}\b",
    rf"\b{_IGNORE}\W+(?:(?:user|developer)\W+)?(?:instructions?|prompts?|guidelines|guardrails)\b",
    rf"\b{_IGNORE}\W+(?:everything|anything|all|whatever|what)\b{_FEW}(?:above|before|previously|earlier|told|so far)\b",
    r"\b(?:assistant|model|system|ai|chatbot|bot)\W+(?:\w+\W+){0,2}?"
    rf"(?:ignores?|disregards?|forgets?|overrides?|bypass(?:es)?)(?:\W+{_THE})+\W+(?:\w+ )?(?:{_LAW}|training|safety)\b",
    rf"\b{_IGNORE}\W+(?:everything|anything|all|whatever|what)\b{_FEW}(?:system|prompt|instructions?)\b",
    r"\bforget (?:all )?(?:your|its) training\b|\bnever refuse (?:any|a) ?\w*\b",
    r"\brepeat (?:everything|all|the \w+) (?:above|before)\b",
    r"\byou (?:must|shall|will now|are (?:now|no longer|not bound|free from))\b",
    r"\byou are (?:an? |the )?(?:ai|assistant|chatbot|language model)\b",
    r"\bfrom (?:now|here) on,? (?:you|ignore|act|the assistant|the system)\b",
    r"\b(?:new|updated|real|actual|following) (?:system )?instructions?\s*:",
    r"\b(?:assistant|model|system|ai|chatbot) (?:must|shall|has to|should)(?: \w+)? "
    r"(?:ignore|disregard|reveal|obey|disobey|forget)\b",
    rf"\b{_TELL}{_FEW}(?:the|your|its|this|our) (?:(?:full|whole|entire|exact|original|complete) )?prompts?\b",
    rf"\b{_TELL}{_FEW}(?:system|initial|original|hidden|secret|internal|developer) "
    r"(?:prompts?|messages?|instructions?|rules|settings)\b",
    r"\b(?:system|developer)[ -]?(?:prompts?|messages?)\b",
    rf"\b{_TELL}{_FEW}(?:passwords?|api[ -]?keys?|credentials|private keys?|access tokens?)\b",
    rf"\b{_TELL}{_FEW}(?:the|your|all|any|its) secrets?\b",
    rf"\b{_TELL}{_FEW}{_OTHERS} (?:users?|persons?|people|customers?)\W*s?\W+{_PRIVATE}\b",
    rf"\b{_PRIVATE} (?:of|about|from|belonging to) (?:the )?{_OTHERS} (?:users?|customers?)\b",
    rf"\b(?:for|to|as) {_OTHERS} users?\b",
    r"\bjail ?break|\b(?:dan|developer|debug|god|admin|sudo|root) mode\b|\bdo anything now\b",
    r"\b(?:without|no|remove|disable|turn off) (?:\w+ )?(?:guardrails|safety (?:checks?|filters?|rules?)|content filters?)\b",
    r"\b(?:act|respond|behave|answer|speak) as (?:an? |the )?(?:\w+ )?(?:system|developer|admin(?:istrator)?|root)\b",
    r"\b(?:call|invoke|execute) (?:the )?(?:\w+ )?(?:tools?|functions?)\b|\bsearch_episodes\b|\bread_profile\b",
)
_GERMAN_LAW = r"(?:anweisung|instruktion|vorgabe|prompt|befehl|richtlinie|anleitung)\w*"
_GERMAN = (
    r"\b(?:ignorier(?:e|t|en sie)?|vergiss|vergesst|vergessen sie|missachte[nt]?|umgehe[nt]?|übergehe[nt]?|überschreibe[nt]?)\b"
    rf"{_FEW}(?:system|entwickler)?{_GERMAN_LAW}",
    r"\b(?:ignoriere|vergiss|missachte|umgehe)\W+(?:alle|die|deine|diese|vorherigen|bisherigen|obigen)(?:\W+\w+){0,2}?\W+regeln\b",
    rf"\b(?:befolge|folge|beachte|gehorche)n?\b{_FEW}(?:nicht|keine[nr]?|nie)\b{_FEW}(?:{_GERMAN_LAW}|regeln?\b)",
    rf"\b(?:befolge|folge|beachte)n?\b{_FEW}(?:{_GERMAN_LAW}|regeln?)\W+(?:nicht|nie)\b",
    r"\b(?:du musst|du bist (?:jetzt|nun|ab)|ab (?:jetzt|sofort) bist du)\b",
    rf"\b(?:gib|zeige?|verrate|nenne)\b{_FEW}(?:prompt|passw[oö]rt|system-?prompt|systemanweisung)\w*",
)
_FRENCH = (
    r"\b(?:ignore[rz]?|oublie[rz]?|contourne[rz]?|désobéi\w*|ne (?:suis|suivez|respecte[rz]?|tiens|tenez) (?:pas|plus|jamais))\b"
    rf"{_FEW}(?:instructions?|consignes?|directives?|prompts?|(?:tes|vos|les) règles)\b",
    r"\b(?:tu dois|vous devez|tu es (?:maintenant|désormais)|vous êtes (?:maintenant|désormais))\b",
    rf"\b(?:révèle|montre|affiche|donne|divulgue)[rz]?\b{_FEW}(?:prompts?|mots? de passe|invite système|instructions système)\b",
)
_SPANISH = (
    r"\b(?:ignor[ae]n?|olvid[ae]n?|desobedece|anula|omite|no (?:sigas|siga|obedezcas|respetes|hagas caso))\b"
    rf"{_FEW}(?:instrucci[oó]n(?:es)?|indicaciones|[oó]rdenes|directrices|prompts?|(?:tus|las|sus) reglas)\b",
    r"\b(?:tú debes|debes (?:ignorar|revelar|obedecer)|ahora eres|a partir de ahora,? eres)\b",
    rf"\b(?:revela|muestra|enseña|dime|imprime)\b{_FEW}(?:prompts?|contraseñas?|instrucciones del sistema)\b",
)
_FURTHER = (  # the one order that everybody tries: Italian, Portuguese, Russian, Chinese, Japanese
    rf"\b(?:ignora|dimentica|ignore|esqueça|desconsidere)\b{_FEW}(?:istruzioni|instruções)\b",
    rf"\b(?:игнорируй|забудь)\w*{_FEW}(?:инструкци|указани|правил)\w*",
    r"(?:忽略|无视|忘记).{0,10}(?:指令|指示|提示|规则|说明)",
    r"(?:指示|命令|プロンプト|ルール).{0,6}(?:無視|忘れ)",
)
_ORDERS = tuple(re.compile(order) for order in (*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH, *_FURTHER))


def is_order(text: str) -> bool:
    """Whether there is an order to the system in it; `text` is in compatibility form (NFKC) and case-folded."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    return any(order.search(form) for form in {text, bare} for order in _ORDERS)
