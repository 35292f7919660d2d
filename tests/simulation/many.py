"""Many seeds, on several processors: `scripts/simulate`, and the tests, run this.

Of every seed one line tells what it came to; at the end one line, in JSON, of all together. A seed
that fails says why, with the last requests before it; any other seed is played all the same.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence

from aggfs.stores.faulty import FaultKind
from tests.simulation.planted import BUGS
from tests.simulation.simulation import Failed, Report, simulate

Outcome = Report | Failed


def play(arguments: tuple[int, float, str]) -> Outcome:
    """One seed, in a process of its own."""
    seed, hours, bug = arguments
    logging.disable(logging.CRITICAL)
    with BUGS[bug]():
        return simulate(seed, hours=hours)


def outcomes(seeds: Sequence[int], hours: float, bug: str, jobs: int) -> Iterator[Outcome]:
    """Of each seed, in order. Sets have another order in each process unless hashes are fixed."""
    assert os.environ.get("PYTHONHASHSEED") == "0", "a simulation needs PYTHONHASHSEED=0"
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(play, [(seed, hours, bug) for seed in seeds], chunksize=1)


def told(outcome: Outcome) -> str:
    """One line; of a failure also what came before it."""
    if isinstance(outcome, Failed):
        return "\n".join((*outcome.lines, f"seed {outcome.seed}: WRONG: {outcome.why}"))
    kinds = ", ".join(f"{count} {kind.value}" for kind, count in outcome.faults.items() if count)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
    return (
        f"seed {outcome.seed}: {outcome.hours:.2f} h, {sum(outcome.faults.values())} faults"
        f" ({kinds}); {outcome.requests} requests, {outcome.done} deeds, {outcome.refused} refused;"
        f" ends: {ends}; {outcome.recoveries} recoveries; trace {outcome.digest}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", default="0-49", help="A-B, or one; 0-49")
    parser.add_argument("--but", default="", help="without these, A,B,C")
    parser.add_argument("--hours", type=float, default=2.0, help="at least, of each seed; 2")
    parser.add_argument("--bug", default="none", choices=BUGS, help="plant a bug")
    parser.add_argument("--until-failed", action="store_true", help="stop at the first that fails")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    left_out = set(map(int, filter(None, asked.but.split(","))))
    seeds = [seed for seed in range(int(first), int(last or first) + 1) if seed not in left_out]
    began, failed = time.monotonic(), 0
    hours, faults = 0.0, dict.fromkeys(FaultKind, 0)
    for outcome in outcomes(seeds, asked.hours, asked.bug, asked.jobs):
        print(told(outcome), flush=True)
        if isinstance(outcome, Failed):
            failed += 1
            if asked.until_failed:
                break
            continue
        hours += outcome.hours
        for kind, count in outcome.faults.items():
            faults[kind] += count
    summary = {
        "seeds": len(seeds),
        "failed": failed,
        "simulated_hours": round(hours, 2),
        "faults": sum(faults.values()),
        "faults_by_kind": {kind.value: count for kind, count in faults.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
