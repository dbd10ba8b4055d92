"""A store to test with, that can be closed and opened again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftbroker.storage import LogStore, RecordReader, StorageOptions, open_store

OPTIONS = StorageOptions(reserve_bytes=0, ballast_bytes=0)


class Opened:
    """A store that can be closed and opened again in one test."""

    def __init__(self, directory: Path, options: StorageOptions = OPTIONS) -> None:
        self.directory = directory
        self.options = options
        self.store: LogStore
        self.reader: RecordReader
        self.open()

    def open(self) -> None:
        self.store, self.reader = open_store(self.directory, self.options)

    def reopen(self) -> LogStore:
        self.store.close()
        self.open()
        return self.store

    def before_and_after_restart(self) -> Iterator[LogStore]:
        yield self.store
        yield self.reopen()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made = Opened(tmp_path / "data")
    yield made
    made.store.close()
