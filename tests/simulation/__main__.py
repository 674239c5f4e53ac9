"""`python -m tests.simulation SEED [--trace]`, `--seeds A:B`, `--mutants`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.mutants import MUTANTS
from tests.simulation.run import Simulator


def mutants(simulator: Simulator, first: int, last: int) -> int:
    """Print which seed catches each mutant."""
    missed = 0
    for mutant in MUTANTS:
        started = time.perf_counter()
        with mutant.applied():
            for seed in range(first, last):
                if violations := simulator.run(seed).violations:
                    print(
                        f"{mutant.name:66} seed {seed:5}  {time.perf_counter() - started:6.1f} s  {violations[0][:90]}",
                        flush=True,
                    )
                    break
            else:
                missed += 1
                print(f"{mutant.name:66} not caught by {first}:{last}", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="run this one and say what is wrong")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--seeds", help="run the seeds A:B")
    parser.add_argument(
        "--mutants", action="store_true", help="look for a seed that catches each mutant, within --seeds"
    )
    asked = parser.parse_args()
    simulator = Simulator()
    if asked.seed is not None:
        result = simulator.run(asked.seed, asked.trace)
        print("\n".join(result.trace))
        print(
            f"seed {result.seed}: {result.operations} operations, {result.calls} calls of the store, {result.seconds:.2f} s"
        )
        print("faults:", "; ".join(result.faults) or "none")
        print("\n".join(result.violations) or "no violation")
        return bool(result.violations)
    if asked.mutants:
        return mutants(simulator, *(int(n) for n in (asked.seeds or "0:400").split(":")))
    first, last = (int(n) for n in (asked.seeds or "0:200").split(":"))
    started, operations, calls, failed = time.perf_counter(), 0, 0, []
    for seed in range(first, last):
        result = simulator.run(seed)
        operations += result.operations
        calls += result.calls
        if result.violations:
            failed.append(seed)
            print(f"seed {seed}: {len(result.violations)} violations, the first: {result.violations[0]}", flush=True)
    seconds = time.perf_counter() - started
    print(
        f"{last - first} seeds, {operations} operations, {calls} calls of the store, {seconds:.1f} s"
        f" ({seconds / max(1, last - first):.3f} s each); seeds with violations: {len(failed)}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
