"""Data sets as an evaluation takes them: phases of what is learned and what is asked afterwards, with model-free floors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from alignment.evaluation.benchmark import Benchmark, Phase
from alignment.evaluation.film_choices import film_choices
from alignment.evaluation.metrics import Scored, summary
from alignment.evaluation.synthetic import WORLDS, synthetic
from personaagent.errors import InvalidInput
from personaagent.readers import lamp_tests, movielens_split, pahf_phase, read, sample_path
from personaagent.types import Interaction, Kind

__all__ = ["floors", "load_benchmark", "spoil", "spread"]

TEST_SHARE = 0.2  # newest of each user, where the data set has no test of its own
SAMPLE_SHARE = 0.25  # of the bundled histories, which are short


def load_benchmark(name: str, path: Path | None, users: int | None = None) -> Benchmark:
    """Read a data set, or make it up.

    Args:
        name: `pahf`, `movielens`, `movielens-choices` (the same ratings as choices among films), `lamp`, `history`,
            `sample` (the bundled histories), or `synthetic-<world>` (see `alignment.evaluation.synthetic`).
        path: its file or folder; the folder that holds several data sets will do. The last two kinds need none.
        users: only the first so many.

    Raises:
        InvalidInput: the name is unknown, the path is missing, the files cannot be read, or there is nothing to learn or
            to test.
    """
    made_up = {f"synthetic-{world}": world for world in WORLDS}
    if name not in _LOADERS and name not in made_up and name != "sample":
        raise InvalidInput(f"there is no data set {name!r}; choose from {', '.join((*_LOADERS, 'sample', *made_up))}")
    if users is not None and users < 1:
        raise InvalidInput(f"the number of users must be at least 1, not {users}")
    if name in made_up:
        return synthetic(made_up[name]) if users is None else synthetic(made_up[name], users)
    if name == "sample":
        phases = _history(sample_path(), users, SAMPLE_SHARE)
    elif path is None:
        raise InvalidInput(f"say where the data of {name} is, with --data PATH")
    else:
        phases = _LOADERS[name](path, users)
    names = tuple(dict.fromkeys(i.user for i in phases[0].test))
    kept = frozenset(names)
    phases = tuple(
        Phase(
            name=p.name,
            learn=tuple(i for i in p.learn if i.user in kept),
            test=tuple(i for i in p.test if i.user in kept),
        )
        for p in phases
    )
    if not names or not any(p.learn for p in phases):
        raise InvalidInput(f"{path or name} leaves nothing to learn or nothing to test on")
    return Benchmark(name=name, users=names, phases=phases, discrete=name == "lamp")


def spoil(benchmark: Benchmark, share: float, seed: int) -> tuple[Benchmark, frozenset[str]]:
    """Replace that share of the learned truths of every other user by random ones: noisy or malicious feedback.

    Closed choices get another of their options, free text another truth of somebody's. Tests stay as they are.

    Returns:
        The data set, and whose truths were spoilt.
    """
    if not 0 < share <= 1:
        raise InvalidInput(f"the share of spoilt truths must lie between 0 and 1, not {share}")
    rng = random.Random(f"{seed}:noise")
    whose = frozenset(benchmark.users[1::2])
    said = [i.truth for p in benchmark.phases for i in p.learn if i.truth and not i.choices]

    def spoilt(item: Interaction) -> Interaction:
        if item.user not in whose or rng.random() >= share:
            return item
        others = [c for c in item.choices if c != item.truth] if item.choices else said
        return item.model_copy(update={"truth": rng.choice(others)}) if others else item

    phases = tuple(p.model_copy(update={"learn": tuple(spoilt(i) for i in p.learn)}) for p in benchmark.phases)
    return benchmark.model_copy(update={"phases": phases}), whose


def floors(benchmark: Benchmark, phase: Phase, seed: int = 0) -> dict[str, Any]:
    """What needs neither model nor memory: `chance` among the options; `global_mean` and `user_mean` of ratings."""
    result: dict[str, Any] = {}
    if closed := [i for i in phase.test if i.kind is Kind.CHOICE]:
        chance = [Scored(i.user, i.id, i.kind, "", i.truth or "", score=1 / len(i.choices or ".")) for i in closed]
        result["chance"] = summary(chance, seed, f1=False)
    if rated := [i for i in phase.test if i.kind is Kind.RATING]:
        before = phase.learn
        known = [(i.user, float(i.truth)) for i in before if i.kind is Kind.RATING and i.truth and _number(i.truth)]
        if not known:
            return result
        overall = fmean(value for _, value in known)
        by_user: dict[str, list[float]] = {}
        for user, value in known:
            by_user.setdefault(user, []).append(value)
        means = {user: fmean(values) for user, values in by_user.items()}
        result["global_mean"] = summary([benchmark.scored(i, f"{overall}", overall, None) for i in rated], seed)
        own = [benchmark.scored(i, f"{means.get(i.user, overall)}", means.get(i.user, overall), None) for i in rated]
        result["user_mean"] = summary(own, seed)
    return result


def spread(items: Sequence[Interaction], n: int) -> list[Interaction]:
    """At most n of the items, evenly over them."""
    return list(items) if len(items) <= n else [items[i * len(items) // n] for i in range(n)]


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pahf(path: Path, users: int | None) -> tuple[Phase, ...]:
    folder = path / "pahf" if (path / "pahf").is_dir() else path
    learned, shifted = (
        Phase(
            name=name,
            learn=tuple(pahf_phase(folder, f"{part}_A", users)),
            test=tuple(pahf_phase(folder, f"{part}_B", users)),
        )
        for name, part in (("learned", "original"), ("shifted", "evolved"))
    )
    return learned, shifted


def _movielens(path: Path, users: int | None) -> tuple[Phase, ...]:
    folder = path / "movielens" if (path / "movielens").is_dir() else path
    zips = sorted(folder.glob("*.zip")) if folder.is_dir() else []
    return _newest(read("movielens", zips[0] if len(zips) == 1 else folder, users))


def _movielens_choices(path: Path, users: int | None) -> tuple[Phase, ...]:
    (ratings,) = _movielens(path, users)
    return _newest(film_choices((*ratings.learn, *ratings.test)))


def _lamp(path: Path, users: int | None) -> tuple[Phase, ...]:
    return (Phase(name="test", learn=tuple(read("lamp", path, users)), test=tuple(lamp_tests(path, users))),)


def _history(path: Path, users: int | None, share: float = TEST_SHARE) -> tuple[Phase, ...]:
    """What has no truth is left out."""
    return _newest((item for item in read("history", path, users) if item.truth), share)


def _newest(items: Iterable[Interaction], share: float = TEST_SHARE) -> tuple[Phase, ...]:
    """The newest part of each user's interactions is the test; who has only one is left out."""
    by_user: dict[str, list[Interaction]] = {}
    for item in items:
        by_user.setdefault(item.user, []).append(item)
    learn, test = movielens_split((i for own in by_user.values() if len(own) > 1 for i in own), share)
    return (Phase(name="newest", learn=tuple(learn), test=tuple(test)),)


_LOADERS: Mapping[str, Callable[[Path, int | None], tuple[Phase, ...]]] = MappingProxyType(
    {
        "pahf": _pahf,
        "movielens": _movielens,
        "movielens-choices": _movielens_choices,
        "lamp": _lamp,
        "history": _history,
    }
)
