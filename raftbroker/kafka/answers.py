"""Encoded answers that are kept as long as what they were made of has not changed."""

from collections.abc import Sequence

Parts = Sequence[bytes | bytearray | memoryview]
"""An encoded answer, to be sent one after the other; nothing joins or copies them."""

ENTRIES_MAX = 256
BYTES_MAX = 8 << 20


class AnswerCache:
    """Answers to what was asked, all of one version of the metadata. Bounded in number and bytes."""

    def __init__(self) -> None:
        self._version = -1
        self._bytes = 0
        self._answers: dict[object, Parts] = {}

    def get(self, version: int, asked: object) -> Parts | None:
        """Forgets everything that was made of another version."""
        if version != self._version:
            self._version, self._bytes = version, 0
            self._answers.clear()
        return self._answers.get(asked)

    def put(self, asked: object, answer: Parts) -> None:
        """Keeps an answer of the version that `get` was asked for last, where there is room."""
        size = sum(map(len, answer))
        if len(self._answers) < ENTRIES_MAX and self._bytes + size <= BYTES_MAX:
            self._answers[asked] = answer
            self._bytes += size
