"""Golden transcripts: every rule of consensus as a scenario, with all that comes of it, kept as text.

A file in `golden/` opens with a comment that states the rule and what to look for. Then come blocks: commands, a line
`----`, and what they brought about. `transcript.Transcript` says what the commands do. After a change on purpose,
`GOLDEN_UPDATE=1 pytest tests/unit/consensus/test_golden.py` writes the blocks anew: review the difference as text.
"""

import os
from pathlib import Path

import pytest

from tests.simulation.loop import VirtualLoop, run_simulation
from tests.unit.consensus.transcript import Transcript

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))
BAR = "----"


async def play(loop: VirtualLoop, text: str) -> str:
    """The file's text with every block's outcome as it is now."""
    blocks: list[str] = []
    world = Transcript(loop)
    try:
        for block in text.strip().split("\n\n"):
            lines = block.split("\n")
            if BAR in lines or not lines[-1].startswith("#"):
                commands = lines[: lines.index(BAR)] if BAR in lines else lines
                said: list[str] = []
                for command in commands:
                    if not command.startswith("#"):
                        said += await world.execute(command)
                lines = [*commands, BAR, *(said or ["ok"])]
            blocks.append("\n".join(lines))
    finally:
        world.end()
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    outcome = run_simulation(lambda loop: play(loop, text))
    if os.environ.get("GOLDEN_UPDATE"):
        path.write_text(outcome, encoding="utf-8")
    assert outcome.split("\n") == path.read_text(encoding="utf-8").split("\n")


def test_every_rule_has_a_transcript() -> None:
    said = "\n".join(path.read_text(encoding="utf-8").split("\n")[0] for path in FILES)
    missing = [f"C{number}" for number in range(1, 14) if f"C{number}:" not in said]
    assert not missing


def test_a_transcript_that_differs_fails() -> None:
    right = FILES[0].read_text(encoding="utf-8")
    wrong = right.replace("AppendReply term 1", "AppendReply term 7", 1)
    assert wrong != right
    assert run_simulation(lambda loop: play(loop, wrong)) == right
