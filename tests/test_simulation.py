"""The memory service under every fault that a seed can think of: see `tests.simulation`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.clients import DELETING
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.run import Simulator

ROOT = Path(__file__).resolve().parent.parent
# Seeds whose faults were found by the simulation and mended; what each of them plays depends on the code, so they are samples.
ONCE_FAILED = [2, 32, 101, 194, 241, 263, 288, 319, 339, 444, 488, 536, 554, 672, 698, 814, 1817, 5344, 8883]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    yield simulator
    simulator.close()


def replay(seed: int) -> str:
    return f"replay it with: python -m tests.simulation {seed} --trace"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 250, 50))
def test_histories_are_right_whatever_happens(simulator: Simulator, first: int) -> None:
    for seed in range(first, first + 50):
        result = simulator.run(seed)
        assert result.violations == [], replay(seed)
        assert result.operations > 20


@pytest.mark.slow
def test_histories_with_deletions_are_right_too(simulator: Simulator) -> None:
    for seed in range(DELETING, DELETING + 30):
        assert simulator.run(seed).violations == [], replay(seed)


@pytest.mark.slow
def test_seeds_that_once_failed(simulator: Simulator) -> None:
    for seed in ONCE_FAILED:
        assert simulator.run(seed).violations == [], replay(seed)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_a_mechanism_something_goes_wrong(simulator: Simulator, mutant: Mutant) -> None:
    with mutant.applied():
        caught = any(simulator.run(mutant.seed + n).violations for n in range(3))
    assert caught, "the checker notices nothing; look for another seed with: python -m tests.simulation --mutants"


@pytest.mark.slow
def test_a_seed_plays_the_same_everywhere() -> None:
    """Also in another process, with other hashes of strings, after other seeds."""
    traces = []
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "263", "--trace"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.append([line for line in done.stdout.splitlines() if "operations" not in line])
    assert len(traces[0]) > 100
    assert traces[0] == traces[1]
