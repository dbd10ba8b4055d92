"""`python -m bench`: measures the disk and this broker on it, in one run, and says which targets are met."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console

from bench.processes import ROOT, Failed
from bench.report import markdown, show
from bench.runner import CASES, Plan, carry_out, choose_cases
from bench.settings import QUICK, Settings

RESULTS = ROOT / "bench" / "results"

DESCRIPTION = """\
Measures this broker against the limits of the disk and the processor it runs on, in one run.

Because figures of one machine say little about another, every target is a ratio: to what plain files with fdatasync
reach on the same disk a moment before, or to CPU seconds of the node's own process. The machine should have nothing
else to do: the load average before the run and the disk's drift during it are in the report and tell whether it had.

cases, in the order in which they run:
  raft      the disk itself: fdatasync of 200 B and 16 KiB by one writer and by as many as there are nodes; 1 MiB
            blocks with fdatasync by as many. Then the Raft group alone, three processes of consensus and storage:
            200 B entries one at a time and 64 in flight, 16 KiB and 1 MiB with 16 in flight. In the end the disk again.
  start     from the command `raftbroker dev` to every node ready, in an empty directory.
  idle      CPU and memory of the nodes of an idle cluster.
  http      produce and read, records of 100 B and 1 KiB, one and 500 in a request, v2 in binary and JSON, on several
            connections to the node that leads the topic's only partition; and each node's memory afterwards.
  kafka     the same through librdkafka (acks=all, idempotence, linger 5 ms): 100 B and 1 KiB, 1 and 12 partitions; from
            one end to the other at 1,000 records/s; CPU seconds for a million records, of the client and of the nodes.
  queues    messages of 100 B sent, received and acknowledged by one client and by 64, one and 100 in a request; and the
            same with a thousand, a million and again a thousand messages in the queue, with each node's memory.
  failover  from `kill -9` of a partition's leader to the next acknowledged write, and the same for a planned transfer
            of leadership; the client writes through a node that does not lead.
"""

EPILOG = """\
targets:
  Raft, 200 B, one at a time    median commit <= 2 x the raw median fdatasync with three writers at once + 1 ms
  Raft, 200 B, 64 in flight     >= 10 x the rate of one at a time
  Raft, 16 KiB and 1 MiB        bytes, each entry counted three times, >= half of the raw bandwidth
  HTTP produce, 1 KiB by 500    >= 60 MB for each CPU second of the leader's process
  librdkafka produce, 1 KiB     the client waits for the cluster <= 10 % of the time: it is what limits, not the cluster
  queue, a million in it        >= 0.8 x the rates with a thousand in it, for each of send, receive and acknowledge
  kill -9 of a leader           median < 1 s until the next acknowledged write
  planned transfer              median < 100 ms
  idle                          < 3 % of one core and 120 MB for each node; < 250 MB after all load
  start                         < 3 s

where a target is missed:
  `python -m bench --profile --only http` (or raft) names what stops it: a sampler in each node's process charges CPU
  time to threads, lines and functions; the report shows the leader's. Sampling costs a few percent, so figures of such
  a run are a little worse than they could be.

examples:
  python -m bench                                everything; about 15 minutes
  python -m bench --quick                        a look; about 2 minutes
  python -m bench --only raft --folder /mnt/ssd  the Raft group on another disk
  python -m bench --url http://127.0.0.1:8082    a cluster that runs already, on this machine

files:
  bench/results/   the JSON file of each run, named by its time, unless --json says otherwise

exit status:
  0 when everything was measured, whether or not the targets are met; 1 when something could not be measured, 2 for
  wrong usage, 130 when interrupted. Every process that was started has ended then, and what was written is gone.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="CASE,CASE", help=f"run only these cases: {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean less")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="measure the running cluster of which this is a node, instead of one of our own; its nodes must run on "
        "this machine. It gets topics named bench-*. Leaders are killed only if --only names failover",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="on the disk to measure; all goes into a new folder in it, removed in the end (default: bench/results)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results (default: see files)")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the targets to this file as the README has them"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="profile the leader in every case of raft, http, kafka and queues, and show what it did",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    say = Console(stderr=True, highlight=False)
    try:
        plan = Plan(choose_cases(options.only, options.url), options.folder.absolute(), options.url, options.profile)
        run = carry_out(
            plan, QUICK if options.quick else Settings(), lambda text: say.print(f"... {text}", style="dim")
        )
    except (Failed, OSError) as error:
        say.print(f"bench: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        say.print("bench: interrupted", style="red")
        return 130
    show(run, Console(highlight=False, width=None if sys.stdout.isatty() else 160))
    file: Path = options.json or RESULTS / f"{run.started.replace(':', '')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
    say.print(f"written: {file}")
    if options.markdown is not None:
        options.markdown.write_text(markdown(run))
        say.print(f"written: {options.markdown}")
    return 0


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
