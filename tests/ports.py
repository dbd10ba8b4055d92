"""Free ports for tests: below those that the system gives to outgoing connections, and never the same one twice.

A port that was free a moment ago may be taken when it is bound, if the system hands it to some connection in between;
these it hands to none.
"""

import itertools
import os
import socket

FIRST, LAST = 10_000, 31_000
_turns = itertools.count(os.getpid() * 131)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    for turn in _turns:
        port = FIRST + turn % (LAST - FIRST)
        if is_free(port):
            return port
    raise AssertionError("never reached")


def free_offset(ports: list[int]) -> int:
    """An offset that, added to each of these ports, gives one that is free."""
    for turn in _turns:
        offset = FIRST - min(ports) + turn * 37 % (LAST - FIRST - max(ports) + min(ports))
        if all(is_free(port + offset) for port in ports):
            return offset
    raise AssertionError("never reached")
