"""Server-Sent Events and WebSockets from a real browser: a headless Chromium, on pages of this machine and others."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.http.harness import Client
from tests.http.test_push import send
from tests.ports import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OTHER_SITE = "other-site.example"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here: apt install chromium")

RESUMING = """
// each answer ends after two records; the browser comes again by itself, with the last id
const source = new EventSource(`${node}/topics/${topic}/events?offset=earliest&limit=2`);
const values = [], opened = [];
source.addEventListener("ready", event => opened.push(event.lastEventId));
source.onmessage = event => {
  values.push(JSON.parse(event.data).value);
  if (values.length === 6) { source.close(); report({values, opened}); }
};
"""

SOCKET = """
const address = `${node.replace("http", "ws")}/topics/${topic}/ws`;
const socket = new WebSocket(`${address}?group=browser&offset=earliest&credits=2`);
const values = [];
socket.onmessage = message => {
  const told = JSON.parse(message.data);
  if (told.type === "ready")
    socket.send(JSON.stringify({type: "produce", id: 1, records: [1, 2, 3].map(value => ({value, partition: 0}))}));
  for (const record of told.records || []) {
    values.push(record.value);
    socket.send(JSON.stringify({type: "ack", partition: record.partition, offset: record.offset}));
    socket.send(JSON.stringify({type: "credit", records: 1}));
  }
  if (told.type === "error") report(told);
  if (told.type === "committed" && told.offsets["0"] === 3) { socket.close(1000); report({values}); }
};
"""

BOTH_REFUSED = """
const outcome = {};
const done = (name, what) => { outcome[name] = what; if (outcome.events && outcome.socket) report(outcome); };
const source = new EventSource(`${node}/topics/${topic}/events?offset=earliest`);
source.onmessage = () => done("events", "a record came");
source.onerror = () => done("events", source.readyState === EventSource.CLOSED ? "refused" : "tries again");
const socket = new WebSocket(`${node.replace("http", "ws")}/topics/${topic}/ws?offset=earliest`);
socket.onmessage = () => done("socket", "a message came");
socket.onerror = () => done("socket", "refused");
"""


@asynccontextmanager
async def page_server(page: str, reports: "asyncio.Queue[Any]") -> AsyncIterator[int]:
    """Serves the page, and takes what it reports; its port."""

    async def show(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    async def take(request: web.Request) -> web.Response:
        reports.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_get("/", show)
    app.router.add_post("/report", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def browser(url: str, profile: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", f"--user-data-dir={profile}"),
        f"--host-resolver-rules=MAP {OTHER_SITE} 127.0.0.1",
        "--remote-debugging-port=0",  # keeps it running until it is told to end
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


def visit(client: Client, topic: str, script: str, profile: Path, host: str = "127.0.0.1") -> Any:
    """What the page reports that runs the script."""
    page = f"""<!doctype html><title>test</title><script>
const node = "{client.url}", topic = "{topic}";
const report = outcome => fetch("/report", {{method: "POST", body: JSON.stringify(outcome)}});
addEventListener("error", event => report({{error: event.message}}));
{script}</script>"""

    async def main() -> Any:
        reports: asyncio.Queue[Any] = asyncio.Queue()
        async with page_server(page, reports) as port, browser(f"http://{host}:{port}/", profile):
            return await asyncio.wait_for(reports.get(), 60)

    return asyncio.run(main())


def test_an_event_source_comes_again_where_it_was(real: Client, topic: str, tmp_path: Path) -> None:
    for number in range(6):
        send(real, topic, number, partition=0)
    outcome = visit(real, topic, RESUMING, tmp_path)
    assert outcome == {"values": [0, 1, 2, 3, 4, 5], "opened": ["0:0,1:0,2:0", "0:2,1:0,2:0", "0:4,1:0,2:0"]}


def test_a_websocket_produces_reads_and_acknowledges(real: Client, topic: str, cluster: str, tmp_path: Path) -> None:
    assert visit(real, topic, SOCKET, tmp_path) == {"values": [1, 2, 3]}
    lags = real.get(f"{cluster}/consumer-groups/browser/lags").json["data"]
    mine = [(lag["partition_id"], lag["current_offset"]) for lag in lags if lag["topic_name"] == topic]
    assert (0, 3) in mine


def test_a_page_of_another_site_gets_neither(real: Client, topic: str, tmp_path: Path) -> None:
    send(real, topic, "secret")
    outcome = visit(real, topic, BOTH_REFUSED, tmp_path, OTHER_SITE)
    assert outcome == {"events": "refused", "socket": "refused"}
