"""One life of a topic, with each of other people's clients, while nodes and members of its group are killed.

A topic is created and written to with every compression that the client has, three members of a group read it; the
partitions' leader, the group's coordinator and a member are killed meanwhile. Every record is acknowledged and read,
stands in the log once, and whoever joins the group later goes on where it has ended.
"""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.cluster.dev import DevCluster, dev_cluster
from tests.kafka.test_groups import coordinator

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
SECONDS = 60.0
RECORDS = 60
"""With each compression, half of them before a node is killed."""
PYTHON = [sys.executable, "-m", "tests.kafka.clients"]
ALL = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True)
class Client:
    command: list[str]
    compressions: tuple[str, ...] = ALL

    def of(self, what: str, bootstrap: str, topic: str, more: str = "") -> list[str]:
        return [*self.command, what, bootstrap, topic, *([more] if more else [])]


class Kcat(Client):
    """It neither makes nor deletes topics: librdkafka's other face does."""

    def of(self, what: str, bootstrap: str, topic: str, more: str = "") -> list[str]:
        if what == "produce":
            return ["kcat", "-b", bootstrap, "-P", "-t", topic, "-z", more, "-X", "enable.idempotence=true", "-E"]
        if what == "consume":
            settings = ["auto.offset.reset=earliest", "session.timeout.ms=6000"]
            return ["kcat", "-b", bootstrap, "-u", *(f"-X{one}" for one in settings), "-G", more, topic]
        if what in ("list", "describe"):
            which = ["-t", topic] if what == "describe" else []
            form = {"list": ".topics[].topic", "describe": ".topics[0].partitions | length"}[what]
            program = f"import json, sys; print(*{LISTED[form]}, sep='\\n')"
            listed = f'kcat -J -L -b {bootstrap} {" ".join(which)} | {sys.executable} -c "{program}"'
            return ["sh", "-c", listed]
        return Client([*PYTHON, "confluent-kafka"]).of(what, bootstrap, topic)


LISTED = {
    ".topics[].topic": "[one['topic'] for one in json.load(sys.stdin)['topics']]",
    ".topics[0].partitions | length": "[len(json.load(sys.stdin)['topics'][0]['partitions'])]",
}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with dev_cluster(tmp_path_factory.mktemp("clients"), 3) as cluster:
        yield cluster


@pytest.fixture
def bootstrap(dev: DevCluster) -> str:
    dev.wait_whole()  # a topic of three replicas is refused while a node is down
    return ",".join(f"127.0.0.1:{9091 + node + dev.offset}" for node in (1, 2, 3))


@pytest.fixture(params=["confluent-kafka", "kafka-python", "aiokafka", "kcat", "kafkajs", "java"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    made: Client = {"kcat": kcat, "kafkajs": kafkajs, "java": java}.get(request.param, python)(request.param, tmp_path)
    return made


def python(name: str, _: Path) -> Client:
    return Client([*PYTHON, name])


def kcat(_: str, __: Path) -> Client:
    need("kcat")
    return Kcat([])


def kafkajs(_: str, folder: Path) -> Client:
    need("node", "npm")
    done = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "kafkajs@2", "kafkajs-snappy@1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"kafkajs cannot be installed here: {done.stderr[-300:]}")
    shutil.copy(HERE / "clients" / "client.js", folder)
    return Client(["node", str(folder / "client.js")], ("none", "gzip", "snappy"))


def java(_: str, folder: Path) -> Client:
    need("java", "javac", "mvn")
    shutil.copy(HERE / "java" / "pom.xml", folder)
    shutil.copy(HERE / "clients" / "Client.java", folder)
    command = ["mvn", "-q", "-B", "-Dmaven.compiler.release=17", "package"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode and "Could not transfer artifact" in built.stdout:
        pytest.skip("Kafka's Java client cannot be fetched from Maven Central here")
    assert built.returncode == 0, built.stdout
    return Client(["java", "-Xmx192m", "-cp", f"{folder}/target/classes:{folder}/target/lib/*", "Client"])


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} here")


class Member:
    """Reads in a group; `read` is what it has told."""

    def __init__(self, command: list[str]) -> None:
        self.read: list[str] = []
        self.complaints: list[str] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._threads = [threading.Thread(target=self._hear), threading.Thread(target=self._complain)]
        for thread in self._threads:
            thread.start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.read.append(line.strip())

    def _complain(self) -> None:
        assert self.process.stderr is not None
        self.complaints += self.process.stderr

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=SECONDS)
        finally:
            self.process.kill()
            for thread in self._threads:
                thread.join()


def ask(client: Client, what: str, bootstrap: str, topic: str) -> list[str]:
    command = client.of(what, bootstrap, topic)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def write(command: list[str], values: list[str], kill: "int | None", dev: DevCluster) -> None:
    """All are acknowledged, though a node is killed when half of them have been handed over."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    half = len(values) // 2
    process.stdin.write("".join(f"{value}\n" for value in values[:half]))
    process.stdin.flush()
    if kill is not None:
        dev.kill(kill)
    try:
        _, complaints = process.communicate("".join(f"{value}\n" for value in values[half:]), timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, complaints


def until_read(members: list[Member], wanted: set[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while missing := wanted - {value for member in members for value in list(member.read)}:
        complaints = [line for member in members for line in member.complaints[-5:]]
        assert time.monotonic() < deadline, f"{len(missing)} were not read, such as {min(missing)}: {complaints}"
        time.sleep(0.05)


def leader(bootstrap: str, topic: str) -> int:
    """Of the first partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    return int(admin.list_topics(topic, SECONDS).topics[topic].partitions[0].leader)


def log_of(bootstrap: str, topic: str) -> Counter[str]:
    """Every value that stands in the topic, and how often."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "auditor", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(3)])
    found: Counter[str] = Counter()
    ended: set[int] = set()
    deadline = time.monotonic() + SECONDS
    while len(ended) < 3:
        assert time.monotonic() < deadline, f"only the ends of {ended}"
        message = consumer.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            found[(message.value() or b"").decode()] += 1
        elif error.code() == KafkaError._PARTITION_EOF:
            ended.add(message.partition() or 0)
    consumer.close()
    return found


def test_the_life_of_a_topic(dev: DevCluster, bootstrap: str, client: Client, request: pytest.FixtureRequest) -> None:
    topic = "life-" + request.node.callspec.params["client"]
    group = f"group-{topic}"
    ask(client, "create", bootstrap, topic)
    assert topic in ask(client, "list", bootstrap, topic)
    assert ask(client, "describe", bootstrap, topic) == ["3"]
    consume = client.of("consume", bootstrap, topic, group)
    members = [Member(consume) for _ in range(3)]
    wanted: set[str] = set()
    try:
        for turn, compression in enumerate(client.compressions):
            values = [f"{compression}-{number}" for number in range(RECORDS)]
            victim = {1: lambda: leader(bootstrap, topic), 2: lambda: coordinator(dev, group)}.get(turn)
            dev.wait_ready()
            produce = client.of("produce", bootstrap, topic, compression)
            write(produce, values, None if victim is None else victim(), dev)
            wanted |= set(values)
            if turn == 0:
                until_read(members, wanted)
                members[0].end(signal.SIGKILL)
        until_read(members, wanted)
    finally:
        for member in members[1:]:
            member.end()
        members[0].process.kill()
    later = Member(consume)
    try:
        write(client.of("produce", bootstrap, topic, "none"), ["last"], None, dev)
        until_read([later], {"last"})
    finally:
        later.end()
    assert later.read == ["last"]
    assert log_of(bootstrap, topic) == Counter(wanted | {"last"})
    ask(client, "delete", bootstrap, topic)
    assert topic not in ask(client, "list", bootstrap, topic)
