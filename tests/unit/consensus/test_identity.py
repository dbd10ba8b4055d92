"""A data directory is an identity, and one that was copied back in time is told apart (C9)."""

from collections.abc import Mapping
from random import Random

import pytest

from consensus.identity import (
    NODE_ROWS,
    Acquaintances,
    Formed,
    Identity,
    IdentityMismatch,
    formation_rows,
    stored_formation,
    take_identity,
)
from consensus.model import Member
from consensus.store import Write
from consensus.transport import Peer
from raftbroker.storage.store import LogStore
from tests.simulation.disk import Platter, SimEngine


def opened(platter: Platter) -> LogStore:
    return LogStore(SimEngine(platter))


def take(platter: Platter, node: int = 3, nonce: str = "n") -> Identity:
    return take_identity(opened(platter), node, lambda: "a" * 32, nonce)


def test_a_directory_keeps_its_name_and_counts_its_starts_durably() -> None:
    platter = Platter(Random(1))
    first = take(platter)
    platter.crash(keep=0)
    second = take_identity(opened(platter), 3, lambda: "b" * 32, "m")
    assert first == Identity(Member(3, "a" * 32), 1, "n")
    assert second == Identity(Member(3, "a" * 32), 2, "m")


def test_another_nodes_directory_is_refused_and_left_alone() -> None:
    platter = Platter(Random(1))
    take(platter)
    with pytest.raises(IdentityMismatch, match=r"belongs to node 3, but node\.id is 4"):
        take(platter, node=4)
    assert take(platter).boot == 2


def test_how_the_cluster_was_formed_is_read_back() -> None:
    platter = Platter(Random(1))
    store = opened(platter)
    assert stored_formation(store) is None
    formed = Formed("cluster", (Member(1, "a"), Member(2, "b")))
    store.write([Write(NODE_ROWS, node=formation_rows(formed))])
    store.sync()
    assert stored_formation(opened(platter)) == formed


class Memory:
    """Acquaintances over a store, written down at once, and after a restart read again."""

    def __init__(self) -> None:
        self.platter = Platter(Random(1))
        self.writes = 0
        self.restart()

    def restart(self) -> None:
        self.store = opened(self.platter)
        self.met = Acquaintances(self.store, self._remember)

    def _remember(self, rows: Mapping[bytes, bytes | None]) -> None:
        self.writes += 1
        self.store.write([Write(NODE_ROWS, node=dict(rows))])
        self.store.sync()

    def refusal(self, boot: int, nonce: str, uuid: str = "a") -> str | None:
        return self.met.refusal(Peer(3, uuid, boot, nonce, "cluster", "address"))


@pytest.mark.parametrize("restarts", [False, True], ids=["in memory", "after a restart"])
@pytest.mark.parametrize(("boot", "nonce"), [(4, "older"), (5, "copy")], ids=["counter went back", "another start"])
def test_a_directory_that_was_copied_back_is_refused_and_told_the_way_out(
    restarts: bool, boot: int, nonce: str
) -> None:
    memory = Memory()
    assert memory.refusal(5, "n") is None
    if restarts:
        memory.restart()
    refusal = memory.refusal(boot, nonce)
    assert refusal is not None
    assert "older copy of itself" in refusal
    assert "start the node with an empty directory" in refusal


@pytest.mark.parametrize("restarts", [False, True], ids=["in memory", "after a restart"])
def test_a_copied_back_directory_stays_refused_however_often_it_is_started(restarts: bool) -> None:
    """Every start raises its counter; the one that was seen does not tell the two apart for long."""
    memory = Memory()
    assert memory.refusal(5, "n") is None
    for boot in range(4, 9):
        assert memory.refusal(boot, f"copy, start {boot}") is not None
        if restarts:
            memory.restart()
    assert memory.writes == 2
    assert memory.refusal(1, "o", uuid="b") is None


def test_the_same_start_connects_again_and_later_starts_are_welcome() -> None:
    memory = Memory()
    assert [memory.refusal(*start) for start in ((5, "n"), (5, "n"), (6, "o"), (9, "p"), (9, "p"))] == [None] * 5
    assert memory.writes == 3, "only what is new is written down"


def test_an_empty_directory_of_the_same_node_is_another_acquaintance() -> None:
    memory = Memory()
    assert memory.refusal(5, "n") is None
    assert memory.refusal(1, "o", uuid="b") is None
