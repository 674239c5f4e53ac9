"""Which language a short text is in, as far as script and everyday words tell. It knows nothing of users."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["EVERYDAY", "language"]

# Words of English that say nothing about what a text is about, nor about who wrote it.
_ENGLISH = """a about above after again against all also although always am an and another any are around as ask asked at away
    back be because been before being below between both but by can cannot come could day days did do does doing done
    down each either else even ever every few first for friends from get gets getting give go goes going good got had has
    have having he her here hers him his how i if in into is it its just know last least less let like ll long look lot
    made make makes making many may me might mine more most much must my need needs never new next no none nor not now of
    off often on once one only or other others our out over own per please put quite rather really s said same say see
    she should since so some something soon still such t take takes than that the their theirs them then there these they
    thing things think this those though through time times to today together tomorrow tonight too two under until up
    upon us use used very via want wants was way we well were what when where which while who whom whose why will with
    within without work would yes yet you your yours ve re d m i'm i'll i've i'd it's that's don't can't won't you're
    we're they're isn't doesn't didn't"""
EVERYDAY = frozenset(_ENGLISH.split())
# Words that are frequent in one of these languages and no word of English.
_FREQUENT = {
    "German": "und der die das ist nicht ich du wir ein eine zu mit auf für den dem auch noch aber bitte danke wie kann",
    "French": "le la les et est je tu nous vous une des pour pas avec dans que qui sur merci bonjour mais suis c'est ça",
    "Spanish": "el los las y es yo una por para con que qué pero muy gracias está estoy hola como más mi del lo sí",
    "Italian": "il gli che è sono una per con non ma della grazie ciao anche come più mi questo cosa sì",
    "Portuguese": "os e é eu um uma para com não mas muito obrigado obrigada que está do da na em você",
    "Dutch": "het een en ik niet je van dat wij maar ook met voor bedankt zijn heb naar nog wel",
    "Polish": "i nie się to na jest że jestem dziękuję proszę ale jak czy dla mnie będę w z",
    "Turkish": "ve bir bu için değil ben sen çok ama teşekkürler var yok ile ne da mi olur lütfen",
    "Swedish": "och att det jag inte är en ett på som för med tack men kan vi du hej",
}
_WORDS = {name: frozenset(words.split()) for name, words in _FREQUENT.items()}
_SCRIPTS = (
    ("Japanese", re.compile("[\u3040-\u30ff]")),
    ("Korean", re.compile("[\uac00-\ud7af\u1100-\u11ff]")),
    ("Chinese", re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("Thai", re.compile("[\u0e00-\u0e7f]")),
    ("Greek", re.compile("[\u0370-\u03ff]")),
    ("Hebrew", re.compile("[\u0590-\u05ff]")),
    ("Arabic script", re.compile("[\u0600-\u06ff]")),
    ("Devanagari script", re.compile("[\u0900-\u097f]")),
    ("Cyrillic script", re.compile("[\u0400-\u04ff]")),
)


def language(text: str, words: Iterable[str]) -> str | None:
    """The language of a text other than English, or the script it is in; None if it is English or nothing tells.

    Args:
        text: of at most a few thousand characters.
        words: of the text, casefolded.
    """
    if not text.isascii():
        letters = sum(c.isalpha() for c in text)
        for name, script in _SCRIPTS:
            found = len(script.findall(text))
            # A Japanese text is mostly written with the characters of Chinese.
            if found and found * (5 if name == "Japanese" else 2) >= letters:
                return name
    seen = set(words)
    hits = Counter({name: len(seen & frequent) for name, frequent in _WORDS.items()})
    (best, most), (_, second) = hits.most_common(2)
    return best if most >= 2 and most > second and most > len(seen & EVERYDAY) else None
