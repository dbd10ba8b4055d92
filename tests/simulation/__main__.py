"""Runs many seeds and says which fail, and how to run one of them again.

Exit status 0 only if all passed. A seed stands for the same run on every machine that has the same code, whatever its
hash seed. With `--replay SEED --trace` one run is printed whole: every message delivered and every fault. `--plant BUG`
alone plants a bug and looks for a seed that catches it: exit status 0 if one does.
"""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from .plants import PLANTS
from .runner import (
    Result,
    run_brokers,
    run_compacted,
    run_compacted_transactions,
    run_groups,
    run_pipelines,
    run_seed,
    run_transactions,
    run_webhooks,
)

PROGRESS_SECONDS = 5.0
RUNS = {
    "replicas": run_seed,
    "brokers": run_brokers,
    "pipelines": run_pipelines,
    "transactions": run_transactions,
    "groups": run_groups,
    "webhooks": run_webhooks,
    "compacted": run_compacted,
    "compacted-transactions": run_compacted_transactions,
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_chunk(seeds: Sequence[int], voters: int, what: str) -> list[Result]:
    """A few runs in one worker. Errors travel as text: not every exception survives pickling."""
    results = [RUNS[what](seed, voters) for seed in seeds]
    for result in results:
        if result.error is not None:
            result.error = RuntimeError(f"{type(result.error).__name__}: {result.error}")
    return results


def all_results(first: int, count: int, voters: int, jobs: int, what: str) -> Iterator[Result]:
    seeds = range(first, first + count)
    if jobs == 1:
        for seed in seeds:
            yield from run_chunk([seed], voters, what)
        return
    chunks = [seeds[at : at + 8] for at in range(0, len(seeds), 8)]
    with ProcessPoolExecutor(jobs) as pool:
        for results in pool.map(partial(run_chunk, voters=voters, what=what), chunks):
            yield from results


def replay(seed: int, voters: int, trace: bool, plant: str | None, what: str) -> int:
    unbroken = partial(RUNS[what], voters=voters)
    planted = PLANTS[plant].run if plant is not None else unbroken
    result = planted(seed, keep_trace=trace)
    for line in result.trace or ():
        say(line)
    if result.error is not None:
        say("".join(traceback.format_exception(result.error)))
    say(f"seed {seed}, {voters} voters: {'failed' if result.error else 'passed'}, trace {result.digest}")
    say(f"{result.seconds:.1f} simulated seconds: {counted(Counter(result.counts))}")
    return 1 if result.error is not None else 0


def look_for(name: str) -> int:
    """Plants a bug and runs seed after seed until one catches it, from the one that did when it was written."""
    began = time.monotonic()
    plant = PLANTS[name]
    for seed in range(plant.found_at, plant.found_at + plant.tries):
        error = plant.run(seed).error
        if error is not None:
            said = (str(error).splitlines() or [""])[0]
            took = f"{seed - plant.found_at + 1} seeds, {time.monotonic() - began:.0f} s"
            say(f"{name}: seed {seed} catches it, after {took}: {type(error).__name__}: {said}")
            say(f"    again: python -m tests.simulation --replay {seed} --plant {name} --trace")
            return 0
    say(f"{name}: {plant.tries} seeds from {plant.found_at} on do not catch it")
    return 1


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))


def many(first: int, count: int, voters: int, jobs: int, what: str) -> int:
    began = told = time.monotonic()
    failed: list[int] = []
    counts: Counter[str] = Counter()
    simulated = 0.0
    for done, result in enumerate(all_results(first, count, voters, jobs, what), 1):
        simulated += result.seconds
        counts.update(result.counts)
        if result.error is not None:
            failed.append(result.seed)
            say(f"seed {result.seed} FAILED: {result.error}")
            which = f"{'' if what == 'replicas' else f'--{what} '}--nodes {voters}"
            say(f"    again: python -m tests.simulation {which} --replay {result.seed} --trace")
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS:
            told = now
            say(f"{done} of {count} seeds, {len(failed)} failed, {done / (now - began):.1f} seeds/s")
    took = time.monotonic() - began
    say(f"{voters} voters, seeds {first} to {first + count - 1}, {simulated:.0f} simulated seconds: {counted(counts)}")
    rate = f"{count} seeds in {took:.1f} s, {count / took:.1f} seeds/s with {jobs} jobs"
    say(f"{rate}: {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (200)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    parser.add_argument("--nodes", type=int, default=3, help="voters: 1, 3 or 5 (3)")
    whole = parser.add_mutually_exclusive_group()
    for what, says in (
        ("brokers", "topics and reads through any node"),
        ("pipelines", "clients that speak to leaders and have several batches under way"),
        ("transactions", "transactions"),
        ("groups", "members of consumer groups"),
        ("webhooks", "a webhook"),
        ("compacted", "a compacted topic"),
        ("compacted-transactions", "transactions in a compacted topic"),
    ):
        whole.add_argument(
            f"--{what}",
            dest="what",
            action="store_const",
            const=what,
            default="replicas",
            help=f"whole nodes, with {says}",
        )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (one per core)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="with --replay: print every message and fault")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="with this bug planted; alone: look for it")
    options = parser.parse_args()
    if options.replay is not None:
        return replay(options.replay, options.nodes, options.trace, options.plant, options.what)
    if options.plant is not None:
        return look_for(options.plant)
    return many(options.first, options.seeds, options.nodes, options.jobs, options.what)


if __name__ == "__main__":
    sys.exit(main())
