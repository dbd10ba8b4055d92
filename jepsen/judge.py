"""The verdict on a run's history, whose test.json says what it is of: `python -m jepsen check`, in a process of its
own."""

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from jepsen.cluster import ROOT


@dataclass
class Judgement:
    """As `check --json` says it; `valid` is None where it could not tell, and `unknown` says why."""

    valid: bool | None
    anomalies: dict[str, list[object]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


async def judge(history: Path) -> Judgement:
    """Never raises for what is in the history: a checker that fails could not tell."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jepsen", "check", str(history), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, errors = await process.communicate()
    told = errors.decode(errors="replace").strip()
    try:
        judgement = msgspec.json.decode(said, type=Judgement)
    except msgspec.DecodeError:
        return Judgement(None, unknown=[f"the checker said: {told[-500:] or said.decode(errors='replace')[-500:]}"])
    judgement.valid = {0: True, 1: False}.get(process.returncode or 0)
    judgement.unknown = told.splitlines()
    return judgement
