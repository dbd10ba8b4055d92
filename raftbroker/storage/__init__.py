"""Durable storage on one RocksDB per node: the only package that imports rocksdict.

`engine` is the seam, `rocks` the real engine, `frames` checks its files before they are believed, `store` lays out
groups, logs and state over any engine, `records` reads record batches, `disk` is the committer's writer thread, and
`opening` puts them together.
"""

from raftbroker.storage.opening import StorageOptions, StoreDamaged, open_store
from raftbroker.storage.records import RecordReader, payload_key, split_payload_key
from raftbroker.storage.store import LogStore

__all__ = [
    "LogStore",
    "RecordReader",
    "StorageOptions",
    "StoreDamaged",
    "open_store",
    "payload_key",
    "split_payload_key",
]
