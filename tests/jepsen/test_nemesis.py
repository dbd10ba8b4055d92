"""What the nemesis cannot do is said, with the reason; the rest comes in turn."""

import asyncio
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from jepsen.cluster import Cluster
from jepsen.faults import FAULTS, Fault, Field, chosen
from jepsen.faults.processes import PowerLoss
from jepsen.nemesis import Nemesis, Rhythm
from jepsen.net import NamespaceNetwork
from jepsen.recorder import Recorder
from jepsen.view import View

NOBODY = "http://127.0.0.1:9"


def nemesis(folder: Path, *faults: str) -> Nemesis:
    """Of a cluster without nodes, whose network knows no slow links."""
    cluster = Cluster(folder, NamespaceNetwork())
    field = Field(cluster, View([NOBODY]), Random(1), 3)
    return Nemesis(field, Recorder(folder / "history.edn"), chosen(list(faults)), Rhythm(0.01, 0.01))


def test_faults_that_the_network_cannot_do_are_skipped_with_the_reason(tmp_path: Path) -> None:
    skipped = nemesis(tmp_path, "kill", "slow", "lossy").skipped
    assert skipped.keys() == {"slow", "lossy"}
    assert all("use --net proxy" in reason for reason in skipped.values())


def test_a_form_that_cannot_be_had_this_time_is_skipped_with_the_reason(tmp_path: Path) -> None:
    async def two_rounds() -> dict[str, str]:
        one = nemesis(tmp_path, "kill:leader-of-data", "pause:leader-of-shard")
        for _ in range(2):
            await one._one_round()
        return one.skipped

    skipped = asyncio.run(two_rounds())
    assert skipped["kill:leader-of-data"] == "nobody leads: no leader-of-data"
    assert skipped["pause:leader-of-shard"] == "nobody leads: no leader-of-shard"


class Slow(Fault):
    """Takes its time to begin and to end, and knows how far it came."""

    name = "slow-to-begin"
    steps: ClassVar[list[str]] = []

    async def begin(self) -> str:
        self.steps.append("begins")
        await asyncio.sleep(0.2)
        self.steps.append("began")
        return ""

    async def end(self) -> None:
        assert self.steps[-1] == "began"
        self.steps.append("ends")
        await asyncio.sleep(0.2)
        self.steps.append("ended")


@pytest.mark.parametrize("at", ["begins", "ends"])
def test_a_run_that_ends_lets_a_fault_begin_and_end_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Faults were cut off in the midst of it, and could not be healed."""
    monkeypatch.setitem(FAULTS, Slow.name, Slow)
    monkeypatch.setattr(Slow, "steps", [])

    async def cut_off() -> Nemesis:
        one = nemesis(tmp_path, Slow.name)
        running = asyncio.create_task(one.run())
        for _ in range(400):
            if at in Slow.steps:
                break
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        await one._end_all()
        return one

    assert asyncio.run(cut_off()).problems == []
    assert Slow.steps == ["begins", "began", "ends", "ended"]


class Settling(Fault):
    """The cluster has to be whole after it."""

    name = "settling"
    settles = True

    async def begin(self) -> str:
        return ""

    async def end(self) -> None: ...


def test_what_must_settle_is_waited_for_once_everything_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join waited for a node that was killed with it, and the kill for the join."""
    monkeypatch.setitem(FAULTS, Settling.name, Settling)
    monkeypatch.setattr("jepsen.nemesis.TOGETHER", 1.0)
    monkeypatch.setattr("jepsen.nemesis.STAGGER_SECONDS", 0.0)
    monkeypatch.setattr(Slow, "steps", [])
    monkeypatch.setitem(FAULTS, Slow.name, Slow)

    async def one_round() -> list[str]:
        one = nemesis(tmp_path, Settling.name, Slow.name)

        async def whole(when: str) -> bool:
            Slow.steps.append(when)
            return True

        monkeypatch.setattr(one, "_whole", whole)
        await one._one_round()
        return Slow.steps

    assert asyncio.run(one_round()) == ["begins", "began", "ends", "ended", "after settling"]


def test_a_rolling_restart_goes_on_without_a_node_that_cannot_be_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for a majority that another fault had taken, and was called stuck."""
    done: list[str] = []

    async def terminate(self: Cluster, number: int) -> None:
        done.append(f"stop {number}")

    async def run(self: Cluster, number: int, *, wait: bool = True) -> None:
        assert not wait
        done.append(f"start {number}")

    async def ready(self: Cluster, number: int, seconds: float = 60.0) -> None:
        raise TimeoutError(f"node {number} was not ready within {seconds:.0f} s")

    monkeypatch.setattr(Cluster, "terminate", terminate)
    monkeypatch.setattr(Cluster, "run", run)
    monkeypatch.setattr(Cluster, "ready", ready)
    monkeypatch.setattr(Field, "numbers", [1, 2])
    field = Field(Cluster(tmp_path, NamespaceNetwork()), View([NOBODY]), Random(1), 2)

    async def roll() -> None:
        restart = FAULTS["restart"](field, "rolling")
        await restart.begin()
        await restart.end()

    asyncio.run(roll())
    assert done == ["stop 1", "start 1", "stop 2", "start 2"]
    assert FAULTS["restart"].settles


@pytest.mark.parametrize("count", [3, 5])
def test_power_goes_from_a_leader_or_from_the_follower_of_one_that_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """What a follower had acknowledged and not synced was kept by its leader, which was back too soon."""
    numbers = list(range(1, count + 1))
    down: set[int] = set()

    async def kill(self: Cluster, number: int) -> None:
        down.add(number)

    async def run(self: Cluster, number: int, *, wait: bool = True) -> None:
        down.discard(number)

    async def ready(self: Cluster, number: int, seconds: float = 60.0) -> None:
        assert number not in down

    async def leaders(self: View, kind: str) -> list[int]:
        return [1]

    async def power(self: PowerLoss, victims: list[int], *, busy: bool) -> list[int]:
        assert busy
        lost.append((victims[0], frozenset(down)))
        down.update(victims)
        return [100]

    for name, replacement in (("kill", kill), ("run", run), ("ready", ready)):
        monkeypatch.setattr(Cluster, name, replacement)
    monkeypatch.setattr(View, "leaders", leaders)
    monkeypatch.setattr(PowerLoss, "_cut_power", power)
    monkeypatch.setattr("jepsen.faults.processes.BEHIND_SECONDS", 0.0)
    monkeypatch.setattr(Field, "numbers", numbers)
    lost: list[tuple[int, frozenset[int]]] = []

    async def rounds() -> None:
        field = Field(Cluster(tmp_path, NamespaceNetwork()), View([NOBODY]), Random(1), count)
        for _ in range(20):
            fault = PowerLoss(field, "behind")
            await fault.begin()
            victim, behind = lost[-1]
            assert len(behind) == count // 2
            assert down == set(numbers) - {victim} - behind
            assert 1 in {victim} | down
            await fault.end()
            assert not down

    asyncio.run(rounds())
    assert {victim == 1 for victim, _ in lost} == {True, False}
