"""Keeps what is derived from code equal to it: the ready configuration files, the tables of keys and of HTTP routes.

`python docs/derive.py` says what differs and exits with 1; with --write it puts it right. A test runs the former.
"""

import argparse
import sys
from pathlib import Path

from raftbroker.config import KEYS, SECTIONS, KeyInfo, read_settings, render, to_toml
from raftbroker.http.app import ROUTES

ROOT = Path(__file__).parents[1]
KEYS_PAGE = ROOT / "docs" / "configuration.md"
ROUTES_PAGE = ROOT / "docs" / "http.md"


def ready_files() -> dict[Path, str]:
    """Every file in config/ and what it should hold."""
    files = {
        ROOT / "config" / "one-node.toml": _ready_file(
            [
                "A single node, on loopback: for development, or where one machine is all there is.",
                "Start it with: raftbroker server --config config/one-node.toml",
                "It grows to three later, without losing anything: see docs/operations.md.",
            ],
            ["node.data_dir=data/one/node-1"],
        )
    }
    for count, word in ((3, "three"), (5, "five")):
        members = ",".join(f"{number}@127.0.0.1:{7081 + number}" for number in range(1, count + 1))
        for number in range(1, count + 1):
            path = ROOT / "config" / f"{word}-nodes" / f"node-{number}.toml"
            header = [
                f"Node {number} of {word}. As it stands all {word} run on one machine; on machines of their own, give",
                "each its own addresses in `listen` (and `cluster.initial`), and all of them the same shared secret:",
                "  openssl rand -hex 32 > secret    then peers.secret_file, or RAFTBROKER_PEERS__SECRET",
                f"Start it with: raftbroker server --config {path.relative_to(ROOT).as_posix()}",
            ]
            sets = [
                f"node.id={number}",
                f"node.data_dir=data/{word}/node-{number}",
                f"peers.listen=127.0.0.1:{7081 + number}",
                f"http.listen=127.0.0.1:{8081 + number}",
                f"kafka.listen=127.0.0.1:{9091 + number}",
                f"cluster.initial={members}",
            ]
            files[path] = _ready_file(header, sets)
    return files


def _ready_file(header: list[str], sets: list[str]) -> str:
    return "".join(f"# {line}\n" for line in header) + "\n" + render(read_settings(None, sets, {}).values)


def key_tables() -> str:
    """A Markdown table for each section."""
    parts = []
    for section, comment in SECTIONS.items():
        parts.append(
            f"### [{section}]\n\n{comment}\n\n| key | default | takes | what it is |\n| --- | --- | --- | --- |\n"
        )
        parts += [_row(info) for info in KEYS.values() if info.section == section]
        parts.append("\n")
    return "".join(parts)


def _row(info: KeyInfo) -> str:
    takes = info.bounds or info.kind
    return f"| `{info.name}` | `{to_toml(info.default)}` | {takes} | {info.key.comment} |\n"


def route_table() -> str:
    """A Markdown table of every HTTP route."""
    rows = [f"| `{route.method}` | `{route.path}` | {route.summary} |\n" for route in ROUTES]
    return "".join(["| method | path | what it does |\n| --- | --- | --- |\n", *rows])


def page(path: Path, mark: str, content: str) -> str:
    """The page with `content` between its marks."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put right what differs")
    write = parser.parse_args().write
    differing = 0
    pages = {
        KEYS_PAGE: page(KEYS_PAGE, "keys", key_tables().rstrip("\n") + "\n"),
        ROUTES_PAGE: page(ROUTES_PAGE, "routes", route_table()),
    }
    for path, content in {**ready_files(), **pages}.items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            sys.stdout.write(f"{path.relative_to(ROOT)} {'written' if write else 'differs; run with --write'}\n")
            differing += 1
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
    return 1 if differing and not write else 0


if __name__ == "__main__":
    sys.exit(main())
