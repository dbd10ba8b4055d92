"""How a node's process asks for memory: what the defaults do well for short programs is wrong for one that stays."""

import asyncio
import ctypes
import gc
import sys

TRIM_SECONDS = 10.0


async def give_back_freed_memory(seconds: float = TRIM_SECONDS) -> None:
    """Until cancelled: returns pages in which nothing is left to the system, now and then.

    glibc keeps a freed block in its heap wherever a small one behind it lives on: after load a node had a hundred
    megabytes more than it used. (Telling it to give every large block pages of its own keeps memory lower still, at the
    price of a quarter of the throughput: each such block begins with page faults.) It takes some 6 ms, 40 at
    most, in a thread. Does nothing where there is no glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    while trim is not None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(trim, 0)


def freeze_program() -> None:
    """Call when all is imported: from then on the collector walks through what requests leave behind, and no longer
    through the program as well, which takes some 50 ms in which nothing is served."""
    gc.collect()
    gc.freeze()
