"""Runs one suite: see `tests.kafka.suites`."""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.cluster.dev import dev_cluster
from tests.kafka.suites import known, run, verdict


def main() -> int:
    suites = {suite.name: suite for suite in known()}
    parser = argparse.ArgumentParser(prog="python -m tests.kafka.suites")
    parser.add_argument("--suite", choices=suites, required=True)
    parser.add_argument("--path", type=Path, required=True, help="a checkout of its project, outside of this one")
    parser.add_argument(
        "--bootstrap", metavar="HOST:PORT", help="a node's Kafka listener; default: of a cluster of its own"
    )
    parser.add_argument("--python", default=sys.executable, help="has the suite's packages; default: this one")
    parser.add_argument("--seconds", type=int, default=90, help="the longest that one test may take")
    given = parser.parse_args()
    suite = suites[given.suite]
    print(f"{suite.project}. The cluster needs: {suite.cluster}")
    if given.bootstrap is not None:
        found = run(suite, given.path, given.bootstrap, given.python, given.seconds)
    else:
        os.environ.update(suite.settings)
        with tempfile.TemporaryDirectory() as folder, dev_cluster(Path(folder), 3) as cluster:
            cluster.wait_whole()
            found = run(suite, given.path, f"127.0.0.1:{9092 + cluster.offset}", given.python, given.seconds)
    said = verdict(suite, found)
    print(dict(Counter(found.values())), *said, sep="\n")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
