"""Choices among films, made of ratings: of a few films that a user rated around the same time, the best one was taken.

Real ratings ask for one thing at a time; what a user would take of several is what they rated higher than all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta

from personaagent.readers.movielens import QUESTION
from personaagent.types import Interaction

__all__ = ["film_choices"]

OFFERED = 4
REQUEST = "Which of these films would you like best?"
_BEFORE, _AFTER = QUESTION.split("{}")


def film_choices(ratings: Iterable[Interaction]) -> list[Interaction]:
    """Closed choices among four films, from the interactions that the MovieLens reader gives.

    A user's ratings are gone through in time order. Four films in a row make a request if one of them was rated higher
    than the others; no rating is used twice. The utilities in the metadata are the ratings.

    Returns:
        Users in the order they come first, each user's oldest first, no two at the same time.
    """
    by_user: dict[str, list[Interaction]] = {}
    for rating in ratings:
        by_user.setdefault(rating.user, []).append(rating)
    return [choice for user, items in by_user.items() for choice in _of_user(user, items)]


def _of_user(user: str, items: Sequence[Interaction]) -> list[Interaction]:
    rng = random.Random(user)
    ordered = sorted(items, key=lambda i: i.time)
    found: list[Interaction] = []
    at = 0
    while at + OFFERED <= len(ordered):
        offered = rng.sample(ordered[at : at + OFFERED], OFFERED)
        grades = [float(i.truth or 0) for i in offered]
        films = [i.query.removeprefix(_BEFORE).removesuffix(_AFTER) for i in offered]
        if grades.count(max(grades)) > 1 or len(set(films)) < OFFERED:  # a few films are in the data set twice
            at += 1
            continue
        time = max(i.time for i in offered)
        if found:  # many ratings are given at once, but what is tested must be later than what is learned
            time = max(time, found[-1].time + timedelta(milliseconds=1))
        found.append(
            Interaction(
                id=f"{user}-choice-{len(found)}",
                user=user,
                time=time,
                query=REQUEST,
                truth=films[grades.index(max(grades))],
                choices=tuple(films),
                metadata={"source": "movielens", "utilities": list(grades)},
            )
        )
        at += OFFERED
    return found
