"""What the nemesis cannot do is said, with the reason; the rest comes in turn."""

import asyncio
from pathlib import Path
from random import Random

from jepsen.cluster import Cluster
from jepsen.faults import Field, chosen
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
