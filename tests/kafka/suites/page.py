"""Keeps the tables in docs/kafka-compatibility.md equal to the handlers and to the suites' lists.

`python -m tests.kafka.suites.page` says whether they differ and exits with 1; with --write it puts them right.
"""

import argparse
import sys
from pathlib import Path

from kafka.protocol.api_key import ApiKey

from raftbroker.kafka.handlers import APIS, served
from tests.kafka.suites import Suite, known

PAGE = Path(__file__).parents[3] / "docs" / "kafka-compatibility.md"


def api_table() -> str:
    """Every API that Kafka has a key for; what is advertised, and what of it is served."""
    advertised = {one.key: (one.min_version, one.max_version) for one in served()}
    keys = {int(key): key.name for key in ApiKey} | {key: api.name for key, api in APIS.items()}
    rows = ["| key | API | advertised | served |\n| --- | --- | --- | --- |\n"]
    for key, name in sorted(keys.items()):
        api = APIS.get(key)
        if api is None:
            rows.append(f"| {key} | {name} | no | no |\n")
            continue
        low, high = advertised[key]
        rows.append(f"| {key} | {name} | {low} to {high} | {api.min_version} to {api.max_version} |\n")
    return "".join(rows)


def suite_tables() -> str:
    return "\n".join(_suite(suite) for suite in known())


def _suite(suite: Suite) -> str:
    lines = [f"### {suite.name}\n\n{suite.project}: {len(suite.passes)} pass. The cluster needs: {suite.cluster}.\n\n"]
    lines.append("| does not pass, or is not run | why |\n| --- | --- |\n")
    lines += [f"| `{test.removeprefix(suite.tests + '/')}` | {why} |\n" for test, why in suite.fails.items()]
    lines += [f"| all of `{path.removeprefix(suite.tests + '/')}` | {why} |\n" for path, why in suite.left_out.items()]
    return "".join(lines)


def derived() -> str:
    """The whole page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, content in (("apis", api_table()), ("suites", suite_tables())):
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kafka.suites.page")
    parser.add_argument("--write", action="store_true", help="put right what differs")
    right = derived()
    differs = right != PAGE.read_text(encoding="utf-8")
    if parser.parse_args().write:
        PAGE.write_text(right, encoding="utf-8")
        return 0
    if differs:
        print(f"{PAGE.name} differs; run with --write")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
