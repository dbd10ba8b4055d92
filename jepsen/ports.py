"""Free ports for the clusters that the harness starts: below those that the system hands to outgoing connections."""

import itertools
import os
import socket

FIRST, LAST = 10_000, 31_000
_turns = itertools.count(os.getpid() * 173)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, another one at each call of this process."""
    for turn in itertools.islice(_turns, LAST - FIRST):
        port = FIRST + turn % (LAST - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise OSError(f"no port from {FIRST} to {LAST} is free on {host}")
