"""The programs of docs/kafka-clients.md, run as they stand there, but for the addresses and the topic's name.

Each writes ten orders and reads them back as the only member of its group.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.cluster.dev import DevCluster, dev_cluster

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "kafka-clients.md"
BLOCK = re.compile(r"^```\w+\n(?P<text>(?:#|//|/\*) (?P<name>[\w.]+).*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"127\.0\.0\.1:(909[234])")
PARTITIONS = 6
SECONDS = 120
"""For one program, its client's start included."""


def programs() -> dict[str, str]:
    return {found["name"]: found["text"] for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def build(command: list[str], folder: Path, cannot: str) -> None:
    """`cannot`: what the tool says where it cannot fetch what it needs."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode and re.search(cannot, said):
        pytest.skip(f"{command[0]} cannot fetch the client here: {said[-200:]}")
    assert done.returncode == 0, said


def java(folder: Path) -> list[str]:
    shutil.copy(HERE / "java" / "pom.xml", folder)
    build(["mvn", "-q", "-B", "-Dmaven.compiler.release=17", "package"], folder, "Could not transfer artifact")
    return ["java", "-Xmx192m", "-cp", f"{folder}/target/classes:{folder}/target/lib/*", "Orders"]


def node(folder: Path) -> list[str]:
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "kafkajs@2"]
    build(install, folder, "npm (ERR!|error) (code|network)")
    return ["node", "orders.js"]


def go(folder: Path) -> list[str]:
    build(["go", "mod", "init", "orders"], folder, "^$")
    build(["go", "get", "github.com/twmb/franz-go/pkg/kgo@v1.22.2"], folder, "dial tcp|proxy|lookup")
    build(["go", "build", "-o", "orders", "."], folder, "dial tcp|proxy|lookup")
    return ["./orders"]


def c(folder: Path) -> list[str]:
    if not Path("/usr/include/librdkafka/rdkafka.h").exists():
        pytest.skip("librdkafka's header is not installed here (librdkafka-dev)")
    build(["cc", "-Wall", "-Werror", "orders.c", "-o", "orders", "-lrdkafka"], folder, "^$")
    return ["./orders"]


Make = Callable[[Path], list[str]]
TOOLS: dict[str, tuple[list[str], Make]] = {
    "confluent.py": ([], lambda _: [sys.executable, "confluent.py"]),
    "kafka_python.py": ([], lambda _: [sys.executable, "kafka_python.py"]),
    "aio.py": ([], lambda _: [sys.executable, "aio.py"]),
    "Orders.java": (["java", "javac", "mvn"], java),
    "orders.js": (["node", "npm"], node),
    "main.go": (["go"], go),
    "orders.c": (["cc"], c),
    "kcat.sh": (["kcat"], lambda _: ["sh", "-e", "kcat.sh"]),
}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with dev_cluster(tmp_path_factory.mktemp("page"), 3) as cluster:
        cluster.wait_whole()
        yield cluster


def test_every_program_of_the_page_is_known() -> None:
    assert programs().keys() == TOOLS.keys()


@pytest.mark.parametrize("name", TOOLS)
def test_a_program_of_the_page(name: str, dev: DevCluster, tmp_path: Path) -> None:
    tools, make = TOOLS[name]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    topic = "orders-" + name.replace(".", "-")
    text = PORT.sub(lambda port: f"127.0.0.1:{int(port[1]) + dev.offset}", programs()[name])
    text = re.sub(r"""(["' ])orders(["' \n])""", rf"\1{topic}\2", text).replace("billing", f"billing-{topic}")
    (tmp_path / name).write_text(text, encoding="utf-8")
    command = make(tmp_path)
    bootstrap = ",".join(f"127.0.0.1:{9091 + number + dev.offset}" for number in (1, 2, 3))
    admin = AdminClient({"bootstrap.servers": bootstrap})  # it has to outlive what it is asked for
    admin.create_topics([NewTopic(topic, PARTITIONS, 3)])[topic].result(30)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    read = [line for line in done.stdout.split() if line.startswith("order-")]  # kafkajs logs there, too
    assert sorted(read) == [f"order-{number}" for number in range(10)], done.stdout + done.stderr
    assert committed(bootstrap, f"billing-{topic}", topic) == 10


def committed(bootstrap: str, group: str, topic: str) -> int:
    """Of all partitions together."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        found = consumer.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 30)
        return sum(max(0, one.offset) for one in found)
    finally:
        consumer.close()
