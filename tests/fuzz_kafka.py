"""Throws broken requests at the Kafka decoder: `python -m tests.fuzz_kafka --frames 1000000 --seed 1`.

Sound requests of every API and version are made from the protocol's definitions, then damaged: bits flipped, cut off,
spliced, lengths and counts made extreme, bytes of no meaning put in. Each goes the way a connection's bytes go: frame
length, header, body. All that may come of it is a decoded request or `BrokenFrame`; anything else ends the run with
the seed and the bytes that did it.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.frames import SIZE_BYTES, frame_size, read_header
from raftbroker.kafka.handlers import APIS
from tests.unit.kafka.samples import MESSAGES, sample

FRAME_BYTES_MAX = 1 << 20
SOUND_FRAMES = 3000
EXTREMES = [
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x00",
    b"\xff" * 12,
    b"\x00\x00",
    b"\x7f\xff",
    b"\x01",
    b"\x00" * 16,
    b"\xc3\x28",
]


def sound_frame(rng: random.Random) -> bytes:
    """A request that some client might send, with its length."""
    api = rng.choice(list(APIS.values()))
    version = rng.randint(api.min_version, api.max_version)
    message = sample(rng, MESSAGES[api.key, True], version)
    message.with_header(correlation_id=rng.getrandbits(31), client_id=rng.choice((None, "", "client", "ü" * 50)))
    return bytes(message.encode(header=True, framed=True))


def damage(rng: random.Random, frame: bytes, other: bytes) -> bytes:
    """One of many ways to be broken; the length before it is right more often than not."""
    body = bytearray(frame[SIZE_BYTES:])
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(_WAYS)(rng, body, other)
    size = len(body) if rng.random() < 0.95 else rng.choice((0, -1, 1 << 30, len(body) + 1, len(body) - 1))
    return size.to_bytes(4, "big", signed=True) + body


def _flip(rng: random.Random, body: bytearray, other: bytes) -> None:
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, body: bytearray, other: bytes) -> None:
    at, extreme = rng.randint(0, len(body)), rng.choice(EXTREMES)
    body[at : at + len(extreme)] = extreme


def _insert(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randint(0, len(body))
    body[at:at] = rng.choice((rng.choice(EXTREMES), rng.randbytes(rng.randint(1, 40))))


def _cut(rng: random.Random, body: bytearray, other: bytes) -> None:
    del body[rng.randint(0, len(body)) :]


def _drop(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randint(0, len(body))
    del body[at : at + rng.randint(1, 20)]


def _splice(rng: random.Random, body: bytearray, other: bytes) -> None:
    body[rng.randint(0, len(body)) :] = other[rng.randint(0, len(other)) :]


def _repeat(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randint(0, len(body))
    piece = body[at : at + rng.randint(1, 60)]
    body[at:at] = piece * rng.choice((2, 10, 500))


def _fill(rng: random.Random, body: bytearray, other: bytes) -> None:
    keep = rng.randint(0, min(20, len(body)))
    body[keep:] = rng.randbytes(rng.randint(0, 200))


def _api_version(rng: random.Random, body: bytearray, other: bytes) -> None:
    body[:4] = rng.randint(0, 80).to_bytes(2, "big") + rng.randint(0, 20).to_bytes(2, "big")


_WAYS: list[Callable[[random.Random, bytearray, bytes], None]] = [
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _insert,
    _cut,
    _drop,
    _splice,
    _repeat,
    _fill,
    _api_version,
]


def read(frame: bytes) -> str:
    """What becomes of a frame. Raises what must never be raised."""
    view = memoryview(frame)
    try:
        size = frame_size(view, 0, FRAME_BYTES_MAX)
        if size > len(view) - SIZE_BYTES:
            return "incomplete"
        whole = view[SIZE_BYTES : SIZE_BYTES + size]
        header = read_header(whole, APIS)
        if header.api is None:
            return "ApiVersions of an unknown version"
        header.api.decode(whole[header.body_at :], header.version)
    except BrokenFrame:
        return "broken"
    return "read"


class Report:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.bytes = 0
        self.slowest_seconds = 0.0
        self.slowest_bytes = 0


def run(frames: int, seed: int) -> Report:
    rng = random.Random(seed)
    sound = [sound_frame(rng) for _ in range(min(SOUND_FRAMES, frames))]
    for frame in sound:
        read(frame)  # the first of each kind makes its reader
    report = Report()
    for number in range(frames):
        frame = rng.choice(sound)
        if number % 10:
            frame = damage(rng, frame, rng.choice(sound))
        began = time.thread_time()  # of the processor: others run on this machine as well
        try:
            outcome = read(frame)
        except BaseException:
            sys.stderr.write(f"seed {seed}, frame {number}: {frame.hex()}\n")
            raise
        took = time.thread_time() - began
        if not number % 10 and outcome != "read":
            raise AssertionError(f"seed {seed}, frame {number} is sound, but is {outcome}: {frame.hex()}")
        report.outcomes[outcome] += 1
        report.bytes += len(frame)
        if took > report.slowest_seconds:
            report.slowest_seconds, report.slowest_bytes = took, len(frame)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    report = run(options.frames, options.seed)
    took = time.perf_counter() - began
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common())
    sys.stdout.write(
        f"{options.frames} frames ({report.bytes >> 20} MiB, seed {options.seed}) in {took:.0f} s: {counts}.\n"
        f"The slowest took {1000 * report.slowest_seconds:.1f} ms of the processor ({report.slowest_bytes} bytes).\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
