"""What a MANIFEST says: a row of version edits, each a row of tagged fields (RocksDB's db/version_edit.cc, 9.8).

Only what the check of a store's files needs is kept; an edit with a field that is not known here is refused, because
its meaning could matter.
"""

from pathlib import Path

import msgspec

from raftbroker.storage.frames import FileDamaged, Record

_COMPARATOR, _LOG_NUMBER, _NEXT_FILE, _LAST_SEQUENCE, _COMPACT_CURSOR, _DELETED_FILE = 1, 2, 3, 4, 5, 6
_PREVIOUS_LOG_NUMBER, _MIN_LOG_NUMBER, _NEW_FILE = 9, 10, 103
_FAMILY, _FAMILY_ADD, _FAMILY_DROP, _MAX_FAMILY, _ATOMIC_GROUP = 200, 201, 202, 203, 300
_BLOB_FILE, _BLOB_GARBAGE = 400, 401
_IGNORABLE = 1 << 13
"""Fields with this bit are one length-prefixed string, and may be passed over."""

_NUMBERS = {_PREVIOUS_LOG_NUMBER, _MAX_FAMILY, _ATOMIC_GROUP}
_TABLE_FIELDS_END, _TABLE_OLDEST_BLOB, _BLOB_FIELDS_END = 1, 4, 0


class Table(msgspec.Struct):
    size: int
    oldest_blob: int = 0
    """The lowest number of a blob file that it refers to, 0 where it refers to none."""


class Blob(msgspec.Struct):
    size: int
    """Bytes of its values."""
    live: int
    """How many of its values no compaction has found unused."""


class Manifest(msgspec.Struct):
    """The state that the edits add up to."""

    families: dict[int, str] = msgspec.field(default_factory=lambda: {0: "default"})
    log_numbers: dict[int, int] = msgspec.field(default_factory=lambda: {0: 0})
    """Per column family: its rows in older write-ahead logs are in tables."""
    min_log_number: int = 0
    settled_log: int = 0
    """The highest of `log_numbers` when `min_log_number` was last written, which is right behind every flush."""
    last_sequence: int = 0
    """The highest sequence number in any table."""
    next_file: int = 0
    """Files made after the last edit have this number or a higher one."""
    tables: dict[int, Table] = {}
    """By number, the live ones."""
    blobs: dict[int, Blob] = {}
    """By number, all that were ever added."""

    @property
    def oldest_log(self) -> int:
        """Write-ahead logs below this number are obsolete."""
        return max(self.min_log_number, min(self.log_numbers.values()))

    @property
    def live_blobs(self) -> set[int]:
        """Numbers of those that RocksDB keeps: with values in use, and not older than any that a table refers to
        (`VersionBuilder::SaveBlobFilesTo`)."""
        oldest = min((table.oldest_blob for table in self.tables.values() if table.oldest_blob), default=None)
        return {number for number, blob in self.blobs.items() if blob.live and oldest is not None and number >= oldest}


class _Fields:
    """Decodes one edit. Raises IndexError where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def string(self) -> bytes:
        length = self.number()
        if self._at + length > len(self._data):
            raise IndexError
        self._at += length
        return self._data[self._at - length : self._at]

    def fields(self, end: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while (tag := self.number()) != end:
            found[tag] = self.string()
        return found


def read_manifest(path: Path, records: list[Record]) -> Manifest:
    """Raises FileDamaged for an edit that does not decode."""
    manifest = Manifest()
    for record in records:
        try:
            _take_edit(manifest, _Fields(record.body))
        except (LookupError, ValueError) as error:
            raise FileDamaged(path, f"the edit at byte {record.start} does not decode ({error})") from error
    return manifest


def _take_edit(manifest: Manifest, fields: _Fields) -> None:
    family = log_number = 0
    while fields:
        tag = fields.number()
        if tag == _LOG_NUMBER:
            log_number = fields.number()
        elif tag == _FAMILY:
            family = fields.number()
        elif tag == _FAMILY_ADD:
            manifest.families[family] = fields.string().decode()
        elif tag == _FAMILY_DROP:
            manifest.families.pop(family, None)
            manifest.log_numbers.pop(family, None)
        elif tag == _LAST_SEQUENCE:
            manifest.last_sequence = fields.number()
        elif tag == _NEXT_FILE:
            manifest.next_file = fields.number()
        elif tag == _MIN_LOG_NUMBER:
            manifest.min_log_number = max(manifest.min_log_number, fields.number())
            manifest.settled_log = max(manifest.log_numbers.values())
        elif tag in _NUMBERS:
            fields.number()
        else:
            _take_file(manifest, tag, fields)
    if family in manifest.families:
        manifest.log_numbers[family] = log_number or manifest.log_numbers.get(family, 0)


def _take_file(manifest: Manifest, tag: int, fields: _Fields) -> None:
    if tag == _DELETED_FILE:
        fields.number()
        manifest.tables.pop(fields.number(), None)
    elif tag == _NEW_FILE:
        fields.number()
        number = fields.number()
        table = manifest.tables[number] = Table(fields.number())
        fields.string(), fields.string()
        fields.number(), fields.number()
        blob = fields.fields(_TABLE_FIELDS_END).get(_TABLE_OLDEST_BLOB)
        table.oldest_blob = 0 if blob is None else _Fields(blob).number()
    elif tag == _BLOB_FILE:
        number, live = fields.number(), fields.number()
        manifest.blobs[number] = Blob(fields.number(), live)
        fields.string(), fields.string()
        fields.fields(_BLOB_FIELDS_END)
    elif tag == _BLOB_GARBAGE:
        number, unused = fields.number(), fields.number()
        fields.number()
        manifest.blobs[number].live -= unused
        fields.fields(_BLOB_FIELDS_END)
    elif tag == _COMPACT_CURSOR:
        fields.number(), fields.string()
    elif tag == _COMPARATOR or tag & _IGNORABLE:
        fields.string()
    else:
        raise ValueError(f"unknown field {tag}")
