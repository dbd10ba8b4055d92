"""What takes data takes it of a minority of every group."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from jepsen.cluster import Cluster
from jepsen.faults import Field, Skipped
from jepsen.faults.damage import Wipe
from jepsen.net import NamespaceNetwork
from jepsen.view import Group, View


def victims(folder: Path, monkeypatch: pytest.MonkeyPatch, replicas: list[int]) -> set[int]:
    """How many nodes of five lose their data at once, over many tries."""
    groups = [Group(number, 1, 0, count, complete=True) for number, count in enumerate(replicas)]

    async def told(self: View) -> list[Group]:
        return groups

    async def killed(self: Cluster, number: int) -> None: ...

    monkeypatch.setattr(View, "groups", told)
    monkeypatch.setattr(Cluster, "kill", killed)
    monkeypatch.setattr(Field, "numbers", [1, 2, 3, 4, 5])
    field = Field(Cluster(folder, NamespaceNetwork()), View(["http://127.0.0.1:9"]), Random(1), 5)
    return {len(asyncio.run(Wipe(field, "simple").kill_some())) for _ in range(30)}


def test_two_of_five_only_where_every_group_has_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert victims(tmp_path, monkeypatch, [5, 5]) == {1, 2}
    assert victims(tmp_path, monkeypatch, [5, 3, 5]) == {1}


@pytest.mark.parametrize("replicas", [[], [5, 2], [1]])
def test_none_where_a_group_has_none_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: list[int]
) -> None:
    with pytest.raises(Skipped, match="too few replicas"):
        victims(tmp_path, monkeypatch, replicas)
