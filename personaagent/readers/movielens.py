"""MovieLens ratings: each rating of a user becomes a request for that rating.

Reads GroupLens' own `ml-latest-small.zip` (or any ml-latest zip) or the unpacked folder; only `ratings.csv` and `movies.csv`
are used. The data set's licence does not allow handing it on, so users download it themselves.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import IO

from personaagent.base import why
from personaagent.errors import InvalidInput
from personaagent.readers.read_result import ReadResult, checked
from personaagent.types import Interaction

__all__ = ["QUESTION", "RATINGS", "Movie", "movielens_split", "read", "split_newest"]

WANTED = "MovieLens' zip (such as ml-latest-small.zip) or the folder unpacked from it"
FILES = ("ratings.csv", "movies.csv")
RATINGS = tuple(f"{half / 2:.1f}" for half in range(1, 11))  # "0.5" ... "5.0"
QUESTION = "How would you rate the movie {}?"
_YEAR = re.compile(r"\s*\((\d{4})\)$")
_ARTICLE = re.compile(
    r"(?P<aka>a\.k\.a\. )?(?P<rest>[^()]+), (?P<article>The|An?|L[ae]|Les|L'|El|Los|Las|Il|Das|Der|Die|Une?)(?=\)| \(|$)"
)


@dataclass(frozen=True, slots=True)
class Movie:
    """A movie as people write it: with articles in front."""

    title: str
    year: str | None
    genres: tuple[str, ...]

    @classmethod
    def parse(cls, title: str, genres: str) -> Movie:
        """From the columns of `movies.csv`: "Matrix, The (1999)", "Action|Sci-Fi|Thriller"."""
        title = title.strip()
        year = _YEAR.search(title)
        name = _ARTICLE.sub(_article_first, title[: year.start()] if year else title)
        listed = () if genres.startswith("(") else tuple(g for g in genres.split("|") if g)
        return cls(name or title, year[1] if year else None, tuple(_genre(g) for g in listed))

    @property
    def question(self) -> str:
        """The request for a rating."""
        about = ", ".join(part for part in (self.year, *self.genres) if part)
        return QUESTION.format(f"{self.title} ({about})" if about else self.title)


def read(path: Path, limit_users: int | None = None) -> ReadResult:
    """Ratings user by user in the file's order, each user's oldest first. Line errors count the lines of `ratings.csv`.

    Raises:
        InvalidInput: the path holds no MovieLens data.
    """
    zips = sorted(path.glob("ml-*.zip")) if path.is_dir() and not any(_found(path, name) for name in FILES) else []
    if len(zips) == 1:  # the folder that the zip was downloaded to
        path = zips[0]
    with ExitStack() as stack:
        movies = _movies(_open(path, "movies.csv", stack))
        _header(_open(path, "ratings.csv", stack), "ratings.csv", ("userId", "movieId", "rating", "timestamp"))
    return ReadResult(lambda result: _read(path, movies, limit_users, result))


def movielens_split(
    interactions: Iterable[Interaction], test_fraction: float = 0.2
) -> tuple[list[Interaction], list[Interaction]]:
    """(to learn from, to test on): the newest `test_fraction` of each user's interactions are the test, at least one.

    Both keep the order: users as they come first, each oldest first.
    """
    by_user: dict[str, list[Interaction]] = {}
    for interaction in interactions:
        by_user.setdefault(interaction.user, []).append(interaction)
    parts = [split_newest(history, test_fraction) for history in by_user.values()]
    return [i for learn, _ in parts for i in learn], [i for _, test in parts for i in test]


def split_newest(history: Sequence[Interaction], test_fraction: float) -> tuple[list[Interaction], list[Interaction]]:
    """One user's (older, newest) interactions; the newest part is rounded to the nearest number, at least one."""
    if not 0 < test_fraction < 1:
        raise InvalidInput(f"the test fraction must lie between 0 and 1, not {test_fraction}")
    ordered = sorted(history, key=lambda i: i.time)
    size = max(1, round(len(ordered) * test_fraction))
    return ordered[:-size], ordered[-size:]


def _read(path: Path, movies: dict[str, Movie], limit_users: int | None, result: ReadResult) -> Iterator[Interaction]:
    with ExitStack() as stack:
        file = _open(path, "ratings.csv", stack)
        columns = _header(file, "ratings.csv", ("userId", "movieId", "rating", "timestamp"))
        rows = _rows(csv.reader(file), columns, movies, result)
        # The file is ordered by user; should one come back later, its ratings still carry their times.
        for number, (_, ratings) in enumerate(groupby(rows, key=lambda i: i.user)):
            if limit_users is not None and number >= limit_users:
                return
            yield from sorted(ratings, key=lambda i: (i.time, i.id))


def _rows(
    rows: Iterator[list[str]], columns: list[int], movies: dict[str, Movie], result: ReadResult
) -> Iterator[Interaction]:
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        try:
            user, movie, rating, timestamp = (row[c] for c in columns)
            interaction = _interaction(user, movie, float(rating), int(timestamp), movies)
        except IndexError:
            result.fail(line, "too few columns")
        except (ValueError, OverflowError) as e:
            result.fail(line, why(e))
        else:
            yield interaction


def _interaction(user: str, number: str, rating: float, timestamp: int, movies: dict[str, Movie]) -> Interaction:
    truth = f"{rating:.1f}"
    if truth not in RATINGS or float(truth) != rating:
        raise ValueError(f"rating {rating} is not one of 0.5, 1.0, ... 5.0")
    movie = movies.get(number)
    if movie is None:
        raise ValueError(f"movie {number[:20]} is not in movies.csv")
    interaction = Interaction(
        id=f"movielens-{user}-{number}",
        user=f"movielens-{user}",
        time=datetime.fromtimestamp(timestamp, UTC),
        query=movie.question,
        truth=truth,
        choices=RATINGS,
        metadata={"source": "movielens", "movie": int(number), "genres": list(movie.genres)},
    )
    return checked(interaction)


def _movies(file: IO[str]) -> dict[str, Movie]:
    columns = _header(file, "movies.csv", ("movieId", "title", "genres"))
    movies = {}
    for row in csv.reader(file):
        if len(row) > max(columns):
            number, title, genres = (row[c] for c in columns)
            movies[number] = Movie.parse(title, genres)
    return movies


def _article_first(found: re.Match[str]) -> str:
    gap = "" if found["article"].endswith("'") else " "
    return f"{found['aka'] or ''}{found['article']}{gap}{found['rest']}"


def _genre(name: str) -> str:
    known = {"Children": "children's film", "IMAX": "IMAX", "Film-Noir": "film noir", "Sci-Fi": "sci-fi"}
    return known.get(name, name.lower())


def _found(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / name, *sorted(folder.glob(f"*/{name}"))) if f.is_file()), None)


def _open(path: Path, name: str, stack: ExitStack) -> IO[str]:
    """One of the data set's files, wherever below `path` it lies."""
    try:
        if path.is_dir():
            found = _found(path, name)
            if found is None:
                raise InvalidInput(f"the folder {path} holds no {name}; give {WANTED}")
            return stack.enter_context(found.open(encoding="utf-8-sig", errors="replace", newline=""))
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}; give {WANTED}")
        archive = stack.enter_context(zipfile.ZipFile(path))
        member = next((m for m in archive.namelist() if m.rpartition("/")[2] == name), None)
        if member is None:
            raise InvalidInput(f"{path} holds no {name}; give {WANTED}")
        raw = stack.enter_context(archive.open(member))
        return stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=""))
    except zipfile.BadZipFile as e:
        raise InvalidInput(f"{path} is not a zip file; give {WANTED}") from e
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror or e}") from e


def _header(file: IO[str], name: str, wanted: tuple[str, ...]) -> list[int]:
    """Where the wanted columns are; the file is then at its first row."""
    header = next(csv.reader([file.readline()]), [])
    if missing := [column for column in wanted if column not in header]:
        raise InvalidInput(f"{name} has no column {missing[0]}; give {WANTED}")
    return [header.index(column) for column in wanted]
