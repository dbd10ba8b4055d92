"""How a node's process asks for memory: what the defaults do well for short programs is wrong for one that stays."""

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGE_BYTES = 256 << 10
"""Blocks from this size on get pages of their own, which go back when the block is let go of."""


def give_back_large_blocks() -> None:
    """Once a large block was freed, glibc keeps such blocks in its heap, where one small block behind them holds on to
    them for good: after load a node had a hundred megabytes more than it used. Does nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES)


def freeze_program() -> None:
    """Call when all is imported: from then on the collector walks through what requests leave behind, and no longer
    through the program as well, which takes some 50 ms in which nothing is served."""
    gc.collect()
    gc.freeze()
