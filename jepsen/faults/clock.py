"""Wrong clocks, by libfaketime: a node's wall clock jumps, runs too fast or slow, or flickers. Monotonic time goes on.

The library is loaded into every node at its start and reads its orders from a file, so a clock goes wrong in the
middle of a process's life.
"""

import asyncio
from pathlib import Path

from jepsen.cluster import Node
from jepsen.faults.base import Fault

PLACES = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib/faketime/libfaketime.so.1", "usr/local/lib/faketime/*.so.1")
JUMPS_SECONDS = (-86_400, -3600, -60, -5, -1, 1, 5, 60, 3600, 86_400)
RATES = (0.5, 0.9, 1.1, 2.0)
FLICKER_SECONDS = 0.25
RIGHT = "+0"


def library() -> Path | None:
    """Where libfaketime is, if it is installed."""
    return next((path for place in PLACES for path in Path("/").glob(place)), None)


class Clock(Fault):
    """See the module's text."""

    name = "clock"
    variants = ("jump", "drift", "flicker")

    @classmethod
    def unavailable(cls, kind: str) -> str | None:
        return None if library() is not None else "libfaketime is not installed (Debian: apt install libfaketime)"

    @classmethod
    def prepare(cls, node: Node) -> None:
        (node.disk / "clock").write_text(RIGHT)
        node.environment |= {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(node.disk / "clock"),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # its "fix" makes waits with a timeout late by up to seconds
        }

    async def begin(self) -> str:
        field, random = self.field, self.field.random
        self._flickering: asyncio.Task[None] | None = None
        self._victims = field.some(random.randint(1, len(field.numbers)))
        told = {}
        for victim in self._victims:
            if self.variant == "drift":
                told[victim] = f"+0 x{random.choice(RATES)}"
            else:
                told[victim] = f"{random.choice(JUMPS_SECONDS):+d}"
            self._tell(victim, told[victim])
        if self.variant == "flicker":
            self._flickering = asyncio.create_task(self._flicker(told))
        return f"{told}"

    async def _flicker(self, told: dict[int, str]) -> None:
        right = False
        while True:
            await asyncio.sleep(FLICKER_SECONDS)
            right = not right
            for victim, order in told.items():
                self._tell(victim, RIGHT if right else order)

    def _tell(self, number: int, order: str) -> None:
        path = self.field.node(number).disk / "clock"
        new = path.with_suffix(".new")
        new.write_text(order)
        new.replace(path)

    async def end(self) -> None:
        if self._flickering is not None:
            self._flickering.cancel()
            await asyncio.gather(self._flickering, return_exceptions=True)
        for victim in self._victims:
            self._tell(victim, RIGHT)
