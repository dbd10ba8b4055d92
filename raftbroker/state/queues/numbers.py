"""A first-in, first-out queue of whole numbers, for millions of them: eight bytes each, and nothing in it that the
garbage collector would walk through."""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

_CHUNK = 512


class Numbers:
    """Numbers from 0 to 2**64 - 1, in order of arrival."""

    __slots__ = ("_chunks", "_length", "_start")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._chunks: deque[array[int]] = deque()
        self._start = 0
        """Where the first chunk begins."""
        self._length = 0
        self._fill(numbers)

    def _fill(self, numbers: Iterable[int]) -> None:
        whole = array("Q", numbers)
        self._chunks.extend(whole[at : at + _CHUNK] for at in range(0, len(whole), _CHUNK))
        self._length = len(whole)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        start = self._start
        for chunk in self._chunks:
            yield from chunk[start:] if start else chunk
            start = 0

    def append(self, number: int) -> None:
        chunks = self._chunks
        if not chunks or len(chunks[-1]) >= _CHUNK:
            chunks.append(array("Q"))
        chunks[-1].append(number)
        self._length += 1

    def first(self) -> int | None:
        return self._chunks[0][self._start] if self._chunks else None

    def drop_first(self) -> None:
        self._length -= 1
        self._start += 1
        if self._start == len(self._chunks[0]):
            self._chunks.popleft()
            self._start = 0

    def put_back(self, numbers: Sequence[int]) -> None:
        """These were the first, and are again. For a few."""
        if numbers:
            first = array("Q", numbers)
            if self._chunks:
                first.extend(self._chunks.popleft()[self._start :])
            self._chunks.appendleft(first)
            self._start = 0
            self._length += len(numbers)

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Drops all others."""
        kept = [number for number in self if wanted(number)]
        self._chunks.clear()
        self._start = 0
        self._fill(kept)
