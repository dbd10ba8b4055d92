"""How a link behaves that is neither sound nor cut: a delay, stalls and breaks, a bound on its rate.

TCP hides lost packets: what a program sees of them are stalls as long as a retransmission takes, twice as long for
each loss in a row, and, rarely, a connection that breaks.
"""

from dataclasses import dataclass
from random import Random

Pair = tuple[int, int]
"""(from, to), node numbers."""

RETRANSMISSION_SECONDS = 0.2
RETRANSMISSIONS_MAX = 5


@dataclass(frozen=True)
class Shape:
    """One direction of a link. Probabilities are per piece of at most 64 KiB."""

    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """Up to so many seconds more; order is kept."""
    loss: float = 0.0
    """How likely a piece is lost, once and again."""
    breaks: float = 0.0
    """How likely the connection breaks instead."""
    bytes_per_second: float | None = None

    def draw(self, random: Random) -> float | None:
        """Seconds until the next piece may arrive; None where the connection breaks."""
        if self.breaks and random.random() < self.breaks:
            return None
        wait = self.delay + random.uniform(0.0, self.jitter)
        retransmission = RETRANSMISSION_SECONDS
        for _ in range(RETRANSMISSIONS_MAX):
            if random.random() >= self.loss:
                break
            wait += retransmission
            retransmission *= 2
        return wait
