"""A node's process gives freed memory back, and the collector leaves the program alone."""

import platform
import subprocess
import sys

import pytest

LOAD = """
import asyncio, random, resource
from pathlib import Path
from raftbroker.cli.memory import give_back_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

random.seed(1)
before = resident()
small = []
for _ in range(30):
    large = []
    for _ in range(40):
        large.append(b"x" * random.randint(300_000, 2_000_000))
        small.append(b"y" * random.randint(600, 3000))
    random.shuffle(large)
    peak = resident()
    large.clear()
kept = resident()

async def wait():
    giving = asyncio.create_task(give_back_freed_memory(0.01))
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if resident() - before < (peak - before) / 4:
            break
    giving.cancel()

asyncio.run(wait())
print(peak - before, kept - before, resident() - before)
"""
FREEZE = """
import gc
import raftbroker.node
from raftbroker.cli.memory import freeze_program
freeze_program()
print(len(gc.get_objects()), gc.get_freeze_count())
"""


def numbers(program: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed large blocks")
def test_freed_blocks_go_back() -> None:
    at_its_most, kept, afterwards = numbers(LOAD)
    assert at_its_most > 30 << 20
    assert kept > at_its_most / 4, "else there is nothing to do"
    assert afterwards < at_its_most / 4


def test_the_collector_does_not_walk_through_the_program() -> None:
    left, frozen = numbers(FREEZE)
    assert frozen > 50_000
    assert left < 1_000
