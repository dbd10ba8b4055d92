"""The commands of docs/compaction.md, run as they stand on a cluster: what the page says is what happens."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cluster.dev import dev_cluster
from tests.cluster.pages import blocks, run

pytestmark = pytest.mark.cluster

SAID = {
    "A table of users": [
        r"created users",
        r"produced 60,000 records",
        r"\n100 users\nuser-7: visit 59907\n",
        r'{topic="users",partition="0"} \d+\n',
    ],
    "Deleting a key": [r'"offset":60000,"error_code":null', r'"offset":60000.*"key":"user-7","value":null'],
    "Every record needs a key": [r"\nrefused\n"],
}
"""What each block says, in this order."""


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_page_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTBROKER_LOG__COMPACTION_CHECK_MS", "500")
    parts = blocks("compaction.md")
    assert [title for title, _ in parts] == list(SAID)
    with dev_cluster(tmp_path, 3) as cluster:
        cluster.wait_whole()
        shared = ""
        for title, commands in parts:
            said = "\n" + run(cluster, tmp_path, shared + commands, seconds=120)
            shared = shared or commands[: commands.index("\n") + 1]  # where the variables are
            assert re.search(r"[\s\S]*?".join(SAID[title]), said), f"{title} said\n{said}"
