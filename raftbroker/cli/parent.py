"""Ties a node's process to the `raftbroker dev` that started it: when that one goes, however it goes, so does this.

Two ways, because neither covers everything: on Linux the kernel sends SIGKILL when the parent dies
(`die_with_parent`); everywhere else, standard input is a pipe whose other end only the parent holds, and its end
of file says that the parent is gone (`watch_standard_input`). A node that is killed so loses nothing.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Call first thing in the child. Exits at once where `parent` (a pid) is gone already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)


def watch_standard_input(gone: Callable[[], None]) -> None:
    """Calls `gone` on the running loop once standard input ends; what arrives on it is ignored."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            gone()

    loop.add_reader(descriptor, readable)
