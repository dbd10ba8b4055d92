"""A cluster whose processes the harness owns: it starts, kills, stops and wipes nodes as a test asks.

Each node runs through `jepsen.node`, with a configuration that forces the rare paths: a log so short that whoever was
away needs a snapshot, the smallest memory tables, retention looked at every second, short elections. A node that ends
by itself is written down, and started again unless it refuses to start; one that the harness ended stays down until
it is told.

`FOLDER/node-i/` holds node.toml, volume/data/, node.log and, for what `jepsen.node` is told and tells, disk/. A file
system of its own may be mounted at volume/.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from jepsen.net import Network
from jepsen.ports import free_port
from raftbroker.cli.server import EXIT_CONFIG, EXIT_DAMAGED, EXIT_PORT

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 25.0
PAUSE_AFTER_DEATH_SECONDS = 0.5
POLL_SECONDS = 0.05
DEATHS_MAX = 4
"""A node that ends so often while it is waited for will not come."""

Config = dict[str, dict[str, object]]

SETTINGS: Config = {
    "raft": {
        "heartbeat_ms": 100,
        "election_min_ms": 500,
        "election_max_ms": 1000,
        "log_entries_max": 50,
        "log_bytes_max": 16 << 10,
    },
    "storage": {"memtable_bytes": 1 << 20, "cache_bytes": 1 << 20, "reserve_bytes": 16 << 20, "ballast_bytes": 4 << 20},
    "log": {"retention_check_ms": 1000, "retention_ms": -1},
    "http": {"request_timeout_ms": 4000},
}
"""What every test cluster is told beyond its addresses."""


@dataclass
class Exit:
    """A node that ended by itself."""

    node: int
    time: float
    status: int
    last_line: str

    @property
    def refused(self) -> bool:
        """Whether it said that it must not start with what it found."""
        return self.status in (EXIT_CONFIG, EXIT_DAMAGED, EXIT_PORT)


@dataclass
class Node:
    """One node: where it is, and its process when it has one."""

    number: int
    folder: Path
    http: str
    kafka: str
    peers: str
    """host:port at which the other nodes reach it."""
    config: Config
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    paused: bool = False
    wanted: bool = False
    """It is to run: an end that nobody ordered is followed by a new start."""
    expected_to_refuse: bool = False
    damaged: bool = False
    """The harness has damaged files of it once."""
    watcher: asyncio.Task[None] | None = None

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def data(self) -> Path:
        return self.volume / "data"

    @property
    def database(self) -> Path:
        return self.data / "rocksdb"

    @property
    def disk(self) -> Path:
        """Where the harness and `jepsen.node` leave notes for each other."""
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def url(self) -> str:
        return f"http://{self.http}"


class Cluster:
    """Nodes 1 to n, and such as join later."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        settings: Mapping[str, Mapping[str, object]] = SETTINGS,
        on_exit: Callable[[Exit], None] = lambda exit_: None,
    ) -> None:
        self.folder = folder
        self.network = network
        self.nodes: dict[int, Node] = {}
        self.exits: list[Exit] = []
        self.environment: dict[str, str] = {}
        """For every node that is started from now on."""
        self._settings = settings
        self._on_exit = on_exit
        self._initial: list[int] = []

    # --- all of it ------------------------------------------------------------------------------------------

    async def start(self, count: int, prepare: Callable[[Node], None] = lambda node: None) -> None:
        """Returns once every node is ready. `prepare` is called for each before its first start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        numbers = list(range(1, count + 1))
        await self.network.start(numbers)
        self._initial = numbers
        for number in numbers:
            self.nodes[number] = self._make(number)
        for node in self.nodes.values():
            prepare(node)
        await asyncio.gather(*(self.run(number) for number in numbers))

    async def add(self, prepare: Callable[[Node], None] = lambda node: None) -> int:
        """One more node joins the cluster; returns once it is ready."""
        number = max(self.nodes) + 1
        await self.network.add(number)
        self.nodes[number] = self._make(number)
        prepare(self.nodes[number])
        await self.run(number)
        return number

    async def stop(self) -> None:
        """Every node in good order, then the network."""
        await asyncio.gather(*(self._end(node) for node in self.nodes.values()))
        await self.network.stop()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes.values()]

    @property
    def alive(self) -> list[int]:
        """Nodes that run and are not paused."""
        return [number for number, node in self.nodes.items() if node.running and not node.paused]

    # --- one node -------------------------------------------------------------------------------------------

    async def run(self, number: int, *, wait: bool = True) -> None:
        """Starts the node if it is down; with `wait`, returns once it is ready or has refused to start."""
        node = self.nodes[number]
        if not node.running:
            await self._start(node)
        if wait:
            await self.ready(number)

    async def ready(self, number: int, seconds: float = READY_SECONDS) -> None:
        """Returns once the node takes clients, or has ended. Raises TimeoutError."""
        node = self.nodes[number]
        deadline = time.monotonic() + seconds
        deaths = self._deaths(number)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while node.running or node.wanted:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(f"{node.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                if self._deaths(number) - deaths >= DEATHS_MAX:
                    raise TimeoutError(f"node {number} ends again and again: {last_line(node.log)}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"node {number} was not ready within {seconds:.0f} s: {last_line(node.log)}")
                await asyncio.sleep(POLL_SECONDS)

    def _deaths(self, number: int) -> int:
        return sum(1 for ended in self.exits if ended.node == number)

    async def kill(self, number: int) -> None:
        """kill -9; returns once it is gone."""
        node = self.nodes[number]
        node.wanted = node.paused = False
        if node.process is not None and node.running:
            with contextlib.suppress(ProcessLookupError):
                node.process.kill()
            await node.process.wait()

    async def terminate(self, number: int) -> None:
        """Stops it in good order."""
        await self._end(self.nodes[number])

    def pause(self, number: int) -> None:
        node = self.nodes[number]
        if node.process is not None and node.running:
            os.kill(node.process.pid, signal.SIGSTOP)
            node.paused = True

    def resume(self, number: int) -> None:
        node = self.nodes[number]
        node.paused = False
        if node.process is not None and node.running:
            os.kill(node.process.pid, signal.SIGCONT)

    def wipe(self, number: int) -> None:
        """Empties the data directory of a node that is down."""
        node = self.nodes[number]
        assert not node.running, "a running node keeps its disk"
        shutil.rmtree(node.data, ignore_errors=True)

    # --- inside ---------------------------------------------------------------------------------------------

    def _make(self, number: int) -> Node:
        host = self.network.host(number)
        peers_port, peers = self.network.peers_port(number)
        folder = self.folder / f"node-{number}"
        node = Node(
            number=number,
            folder=folder,
            http=f"{host}:{free_port()}",
            kafka=f"{host}:{free_port()}",
            peers=peers,
            config={section: dict(keys) for section, keys in self._settings.items()},
            command=[*self.network.prefix(number), sys.executable, "-m", "jepsen.node"],
        )
        members = {other: self.network.peers_port(other)[1] for other in self._initial}
        joins = number not in members
        named = list(members.values()) if joins else [f"{other}@{address}" for other, address in members.items()]
        node.config.setdefault("cluster", {})["join" if joins else "initial"] = named
        node.config["node"] = {"id": number, "data_dir": str(node.data)}
        node.config["peers"] = {
            "listen": f"{host}:{peers_port}",
            "advertised": peers,
            "secret_file": str(self.folder / "secret"),
        }
        node.config.setdefault("http", {})["listen"] = node.http
        node.config.setdefault("kafka", {})["listen"] = node.kafka
        for each in (node.folder, node.volume, node.disk):
            each.mkdir(exist_ok=True)
        (folder / "node.toml").write_text(as_toml(node.config))
        return node

    async def _start(self, node: Node) -> None:
        node.wanted = True
        node.paused = False
        own = {name for name in os.environ if name.startswith(("RAFTBROKER_", "JEPSEN_"))}
        environment = {name: value for name, value in os.environ.items() if name not in own}
        environment |= {"JEPSEN_DISK": str(node.disk)} | self.environment | node.environment
        with node.log.open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *node.command,
                f"--config={node.folder / 'node.toml'}",
                f"--parent={os.getpid()}",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        node.watcher = asyncio.create_task(self._watch(node, node.process))

    async def _watch(self, node: Node, process: asyncio.subprocess.Process) -> None:
        """Writes down an end that nobody ordered, and starts the node again where that can help."""
        status = await process.wait()
        if not node.wanted:
            return
        ended = Exit(node.number, time.time(), status, last_line(node.log))
        if not (ended.refused and node.expected_to_refuse):
            self.exits.append(ended)
        self._on_exit(ended)
        if ended.refused:
            node.wanted = False
            return
        await asyncio.sleep(PAUSE_AFTER_DEATH_SECONDS)
        if node.wanted:
            await self._start(node)

    async def _end(self, node: Node) -> None:
        node.wanted = False
        process = node.process
        if process is None or not node.running:
            return
        self.resume(node.number)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def as_toml(config: Mapping[str, Mapping[str, object]]) -> str:
    """JSON's strings, numbers, booleans and lists of them are TOML's as well."""
    sections = (
        "\n".join([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())])
        for section, keys in config.items()
    )
    return "\n\n".join(sections) + "\n"


def last_line(path: Path) -> str:
    """The last line of a node's log that is not empty."""
    if not path.exists():
        return f"nothing ({path})"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"nothing ({path})"
