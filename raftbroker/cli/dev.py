"""`raftbroker dev`: a whole cluster on this machine, each node a process of its own.

Node i (from 1) listens on HTTP 8081+i, Kafka 9091+i and peers 7081+i, each plus the port offset. `DIR/node-i/` holds
its configuration (node.toml, written anew at each start), its data (data/), its pid (node.pid) and its log (node.log);
`DIR/secret` the peers' shared secret, mode 0600; `DIR/cluster.json` which nodes formed the cluster, so that nodes asked
for later join it.

A node that dies is started again after a pause that doubles with each quick death, up to `PAUSE_SECONDS_MAX`; one that
refuses to start (bad configuration, damaged store) is left alone, and what it said is shown. Every node dies with this
process, even when that is killed with SIGKILL (`parent`).
"""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec

from raftbroker.cli.failure import CommandError
from raftbroker.cli.server import EXIT_CONFIG, EXIT_DAMAGED, EXIT_PORT, STOP_SECONDS_MAX
from raftbroker.config import KEYS

NODES_MAX = 9
HTTP_PORT, KAFKA_PORT, PEERS_PORT = 8081, 9091, 7081
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.1, 10.0
STEADY_SECONDS = 10.0
"""A node that lived this long has recovered: its next death is followed by the shortest pause again."""
READY_POLL_SECONDS = 0.03
LOG_BYTES_MAX = 16 << 20
_OWN_KEYS = [
    name
    for name in KEYS
    if name.startswith(("node.", "peers.", "cluster.")) or name.endswith((".listen", ".advertised"))
]

Tell = Callable[[str], None]


class NodePlan(msgspec.Struct, frozen=True):
    """One node's addresses and files."""

    number: int
    http: str
    kafka: str
    peers: str
    directory: Path

    @property
    def pid_file(self) -> Path:
        return self.directory / "node.pid"

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def config_file(self) -> Path:
        return self.directory / "node.toml"


class Formation(msgspec.Struct, frozen=True):
    """What `DIR/cluster.json` remembers."""

    initial: int
    """Nodes 1 to this one formed the cluster; later ones joined it."""
    port_offset: int


def plan_node(number: int, directory: Path, port_offset: int) -> NodePlan:
    http, kafka, peers = (f"127.0.0.1:{base + number + port_offset}" for base in (HTTP_PORT, KAFKA_PORT, PEERS_PORT))
    return NodePlan(number, http, kafka, peers, directory / f"node-{number}")


def node_toml(plan: NodePlan, initial: int, secret_file: Path, plans: list[NodePlan]) -> str:
    """The configuration of one node; only the keys that make it this node."""
    members = [f"{other.number}@{other.peers}" for other in plans if other.number <= initial]
    joins = plan.number > initial
    seeds = [member.partition("@")[2] for member in members]
    return (
        "# Written by `raftbroker dev` at each start; changes here are lost. Set other keys, for all nodes,\n"
        "# through the environment: RAFTBROKER_SECTION__KEY.\n"
        f"[node]\nid = {plan.number}\ndata_dir = {json.dumps(str(plan.directory / 'data'))}\n\n"
        f'[peers]\nlisten = "{plan.peers}"\nsecret_file = {json.dumps(str(secret_file))}\n\n'
        f'[http]\nlisten = "{plan.http}"\n\n[kafka]\nlisten = "{plan.kafka}"\n\n'
        f"[cluster]\n{'join' if joins else 'initial'} = {json.dumps(seeds if joins else members)}\n"
    )


def prepare(directory: Path, nodes: int, port_offset: int) -> tuple[list[NodePlan], Formation]:
    """Makes or checks the files of every node. Raises CommandError where DIR holds another cluster."""
    plans = [plan_node(number, directory, port_offset) for number in range(1, nodes + 1)]
    formation_file = directory / "cluster.json"
    try:
        formation = msgspec.json.decode(formation_file.read_bytes(), type=Formation)
    except FileNotFoundError:
        formation = Formation(initial=nodes, port_offset=port_offset)
        replace_file(formation_file, msgspec.json.encode(formation))
        replace_file(directory / ".gitignore", b"*\n")
    except msgspec.DecodeError as error:
        raise CommandError(
            f"{formation_file} is not what `raftbroker dev` wrote ({error}); use another --data"
        ) from error
    if nodes < formation.initial:
        raise CommandError(
            f"{directory} holds a cluster that {formation.initial} nodes formed; run it with --nodes"
            f" {formation.initial} or more, or start another one with --data"
        )
    if port_offset != formation.port_offset:
        raise CommandError(
            f"{directory} holds a cluster with --port-offset {formation.port_offset}; its nodes know each other by"
            " those ports. Use the same offset, or start another cluster with --data"
        )
    secret_file = directory / "secret"
    if not secret_file.exists():
        replace_file(secret_file, (secrets.token_hex(32) + "\n").encode(), mode=0o600)
    for plan in plans:
        plan.directory.mkdir(exist_ok=True)
        replace_file(plan.config_file, node_toml(plan, formation.initial, secret_file, plans).encode())
    return plans, formation


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes the file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    new.rename(path)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps a second `raftbroker dev` out of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another `raftbroker dev` runs in {directory}; stop that one, or use another --data and --port-offset"
            ) from None
        yield


def child_environment() -> dict[str, str]:
    """This process's environment without the keys that `node.toml` sets, which would win over it."""
    own = {KEYS[name].environment for name in _OWN_KEYS}
    return {variable: value for variable, value in os.environ.items() if variable not in own}


class NodeProcess:
    """Keeps one node's process running until told to stop."""

    def __init__(self, plan: NodePlan, tell: Tell, *, restart: bool) -> None:
        self.plan = plan
        self.refusal: int | None = None
        """The exit status with which it refused to start; it will not until somebody does something about it."""
        self._tell = tell
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def keep_running(self) -> None:
        """Returns once the node is not to be started again."""
        pause = PAUSE_SECONDS_MIN
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            self._tell(f"node {self.plan.number} {describe_exit(status)}")
            if status in (EXIT_CONFIG, EXIT_DAMAGED, EXIT_PORT):
                self.refusal = status
                self._tell(f"it will not be started again; its log says: {last_line(self.plan.log_file)}")
                return
            if not self._restart:
                return
            if time.monotonic() - started >= STEADY_SECONDS:
                pause = PAUSE_SECONDS_MIN
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            self._tell(f"node {self.plan.number} is started again")

    async def _run_once(self) -> int:
        rotate_log(self.plan.log_file)
        with self.plan.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "raftbroker.cli.server",
                f"--config={self.plan.config_file}",
                f"--parent={os.getpid()}",
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for this process, which then stops the nodes in good order
            )
        replace_file(self.plan.pid_file, f"{self._process.pid}\n".encode())
        try:
            if self._stopping.is_set():  # while it was being started
                self._process.terminate()
            return await self._process.wait()
        finally:
            self.plan.pid_file.unlink(missing_ok=True)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for a node that does not go."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX + 2):
                await process.wait()
        except TimeoutError:
            self._tell(f"node {self.plan.number} did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def describe_exit(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def last_line(path: Path) -> str:
    """The last line of a log, or where to look."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else f"nothing ({path})"


def rotate_log(path: Path) -> None:
    """Keeps one older log, so that a node that dies again and again does not fill the disk."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.rename(path.with_name(path.name + ".1"))


async def is_ready(address: str) -> bool:
    """Whether the node at this HTTP address takes requests: GET /readyz answers 200."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.startswith(b"HTTP/1.1 200")


async def _all_of(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


class DevCluster:
    """All nodes of one `raftbroker dev`."""

    def __init__(self, plans: list[NodePlan], tell: Tell, *, restart: bool) -> None:
        self.nodes = [NodeProcess(plan, tell, restart=restart) for plan in plans]
        self._tell = tell
        self._was_ready = False

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Until SIGINT or SIGTERM, or until no node is left to run. Returns the exit status."""
        async with self._stopped_by_signal() as stopping:
            runners = [asyncio.create_task(node.keep_running()) for node in self.nodes]
            ready = asyncio.create_task(self._until_ready(on_ready, stopping))
            waiting = asyncio.create_task(stopping.wait())
            ended = asyncio.create_task(_all_of(runners))
            try:
                await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
                waiting.cancel()
                await asyncio.gather(*(node.stop() for node in self.nodes))
                await ended
        if not stopping.is_set():
            self._tell("no node is left to run")
            return 1
        return 1 if self._cannot_start else 0

    @property
    def _cannot_start(self) -> bool:
        """A node's port is taken or its configuration is bad: not the store's fault, so the others are of no use."""
        return not self._was_ready and any(node.refusal in (EXIT_CONFIG, EXIT_PORT) for node in self.nodes)

    async def _until_ready(self, on_ready: Callable[[], None], stopping: asyncio.Event) -> None:
        waiting = list(self.nodes)
        started = told = time.monotonic()
        while waiting and not self._cannot_start:
            answers = await asyncio.gather(*(is_ready(node.plan.http) for node in waiting))
            waiting = [node for node, ready in zip(waiting, answers, strict=True) if not ready and node.refusal is None]
            if waiting and time.monotonic() - told > 15:
                told = time.monotonic()
                names = ", ".join(str(node.plan.number) for node in waiting)
                self._tell(
                    f"still waiting for node {names} after {told - started:.0f} s; {waiting[0].plan.log_file} ends"
                    f" with: {last_line(waiting[0].plan.log_file)}"
                )
            await asyncio.sleep(READY_POLL_SECONDS)
        if self._cannot_start:
            stopping.set()
        elif any(node.refusal is None for node in self.nodes):
            self._was_ready = True
            on_ready()

    @contextlib.asynccontextmanager
    async def _stopped_by_signal(self) -> AsyncIterator[asyncio.Event]:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        try:
            yield stopping
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
