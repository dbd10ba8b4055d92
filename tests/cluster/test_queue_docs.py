"""The commands of docs/queues.md, run as they stand on a cluster: what the page says is what happens."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cluster.dev import dev_cluster
from tests.cluster.pages import blocks, run

pytestmark = pytest.mark.cluster

CURL_MAX = 10

SAID = {
    "Send, receive, acknowledge": [
        r'"name":"orders"',
        r'"duplicate":false',
        r'"messages":\[\{.*"item": "salt".*"item": "tea"',
        r'"results":\[\{"lock_token":"[^"]+"\},\{"lock_token":"[^"]+"\}\]',
        r'\{"depth":1,"locked":0,"totals":\{"sent":3,"delivered":2,"acknowledged":2,',
    ],
    "Give back, refuse, bring back": [
        r'"results":\[\{"lock_token":"[^"]+","locked_until":\d+\}\]',
        r'"results":\[\{"lock_token":"[^"]+"\}\]',
        r'"results":\[\{"lock_token":"[^"]+"\}\]',
        r'\{"queue":"orders","id":"\d+","reason":"no such item",.*"end":"released".*"end":"rejected"',
        r'\{"count":1\}',
    ],
    "Tell the sender": [
        r'"name":"replies"',
        r'"state":"waiting"',
        r'"state":"consumed".*"consumer":"worker-2"',
        r'\{"queue":"orders","id":"\d+","state":"consumed",.*"consumer":"worker-2"',
    ],
    "Later, in order, once": [
        r'"name":"accounts"',
        r'"duplicate":true',
        r'\["first of a","first of b"\]',
        r'\{"available":0,"delayed":1,"blocked":1,"locked":2\}',
        r'\["second of a"\]',
    ],
    "The same with the command": [
        r"orders-dead|letters-dead",
        r"sent 2 messages to letters",
        r"one message",
        r"\none message\nand another\n",
        r"accounts.*\n.*letters",
        r"deleted letters",
    ],
}
"""What each block says, in this order."""


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("jq"), reason="curl or jq is not installed")
def test_the_page_says_what_happens(tmp_path: Path) -> None:
    parts = blocks("queues.md")
    assert [title for title, _ in parts] == list(SAID)
    with dev_cluster(tmp_path, 3) as cluster:
        cluster.wait_whole()
        shared = ""
        for title, commands in parts:
            assert len(re.findall(r"\bcurl ", commands)) <= CURL_MAX
            said = run(cluster, tmp_path, shared + commands)
            shared = shared or commands[: commands.index("\n") + 1]  # where the variables are
            assert re.search(r"[\s\S]*?".join(SAID[title]), said), f"{title} said\n{said}"
