"""Readers as processes: started, killed, and what they said, in the order of time."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Said(NamedTuple):
    at: float
    who: str
    what: str
    data: list[Any]


class Reader:
    def __init__(self, name: str, kind: str, bootstrap: str, topic: str, group: str, instance: str = "") -> None:
        self.name = name
        self.said: list[Said] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.reader", kind, bootstrap, topic, group, instance],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.complaints: list[str] = []
        self._threads = [threading.Thread(target=self._hear), threading.Thread(target=self._complain)]
        for thread in self._threads:
            thread.start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            at, what, *data = json.loads(line)
            self.said.append(Said(at, self.name, what, data))

    def _complain(self) -> None:
        assert self.process.stderr is not None
        self.complaints += self.process.stderr

    def all(self, what: str) -> list[Said]:
        return [one for one in list(self.said) if one.what == what]

    @property
    def partitions(self) -> list[int]:
        """As last assigned."""
        found = self.all("assigned")
        return list(found[-1].data[0]) if found else []

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._ended()

    def close(self) -> None:
        """In order: it leaves its group."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._ended()

    def _ended(self) -> None:
        self.process.wait()
        for thread in self._threads:
            thread.join()


@contextmanager
def closing(readers: list[Reader]) -> Iterator[list[Reader]]:
    try:
        yield readers
    finally:
        for reader in readers:
            reader.close()


def until(condition: Callable[[], bool], readers: Iterable[Reader], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about in time:\n" + "\n".join(map(_tail, readers)))
        time.sleep(0.05)


def _tail(reader: Reader) -> str:
    ended = reader.process.poll()
    lines = [f"--- {reader.name}, {'running' if ended is None else f'ended with {ended}'}"]
    lines += [f"{one.at:.3f} {one.what} {one.data}" for one in reader.said if one.what != "got"][-15:]
    return "\n".join([*lines, *(line.rstrip()[:300] for line in reader.complaints[-8:])])


def values(readers: Iterable[Reader]) -> set[str]:
    return {one.data[2] for reader in readers for one in reader.all("got")}


def read_after_commit(readers: Iterable[Reader]) -> list[str]:
    """Records that a member was given after another's commit of them had been acknowledged: there must be none."""
    said = sorted(one for reader in readers for one in list(reader.said))
    committed: dict[int, tuple[int, str]] = {}
    wrong: list[str] = []
    for one in said:
        if one.what == "committed":
            partition, offset = one.data
            if offset >= committed.get(partition, (0, ""))[0]:
                committed[partition] = (offset, one.who)
        elif one.what == "got":
            partition, offset, _ = one.data
            end, who = committed.get(partition, (0, ""))
            if offset < end and who != one.who:
                wrong.append(f"{one.who} got {partition}/{offset} after {who} had committed {end}")
    return wrong
