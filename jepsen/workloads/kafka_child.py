"""Kafka clients in processes of their own: librdkafka blocks, and confluent-kafka can hang for good, the interpreter
with it, when a consumer is closed in the midst of a rebalance. A child that does not answer is killed, like a client
that crashes.

A child serves one worker, for one process of the history after the other. Both ends speak EDN, a form a line:
{:f :send, :value ...} there, {:type :ok, :value ...} back. It ends when its standard input does.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping

from jepsen.cluster import ROOT
from jepsen.edn import Keyword, Map, read, write
from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import Client

OP_SECONDS = 40.0
CLOSE_SECONDS = 3.0
LINE_BYTES_MAX = 64 << 20
OPEN, CLOSE = "open", "close"


class Child:
    """The harness's end of one child, started when it is first needed."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def call(self, request: Mapping[str, object], seconds: float) -> Map:
        """Raises ConnectionError where the child is gone, or had to be killed."""
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", "from jepsen.workloads.kafka_child import main; main()"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                limit=LINE_BYTES_MAX,
                start_new_session=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(write({Keyword(name): value for name, value in request.items()}).encode() + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
            if answer:
                form = read(answer.decode())
                assert isinstance(form, Map)
                return form
        except (TimeoutError, OSError):
            pass
        except asyncio.CancelledError:
            await self.kill()
            raise
        await self.kill()
        raise ConnectionError("the Kafka client hung, or was gone, and has been killed")

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class KafkaClient(Client):
    """One process of the history, in a worker's child."""

    def __init__(
        self, child: Child, bootstrap: list[str], process: int, *, group: str = "log-group", transactional: str = ""
    ) -> None:
        self._child = child
        self._open = {
            "f": OPEN,
            "bootstrap": bootstrap,
            "process": process,
            "group": group,
            "transactional": transactional,
        }
        self._opened = False

    async def invoke(self, op: Op) -> Outcome:
        try:
            if not self._opened:
                await self._child.call(self._open, OP_SECONDS)
                self._opened = True
            request = {"f": op.f, "value": op.value, "hint": op.hint, "extra": _named(op.extra)}
            return _outcome(await self._child.call(request, OP_SECONDS))
        except ConnectionError as error:
            return Outcome.unknown(str(error))

    async def close(self) -> None:
        if self._opened:
            with contextlib.suppress(ConnectionError):
                await self._child.call({"f": CLOSE}, CLOSE_SECONDS)
            self._opened = False


def _named(extra: Mapping[str, object]) -> dict[Keyword, object]:
    return {Keyword(name): value for name, value in extra.items()}


def _plain(form: object) -> dict[str, object]:
    assert isinstance(form, dict)
    return {key.name: value for key, value in form.items()}


def _outcome(form: Map) -> Outcome:
    told = _plain(form)
    keys, reached = told["keys"], told["reached"]
    assert keys is None or isinstance(keys, tuple)
    assert isinstance(reached, dict)
    return Outcome(str(told["type"]), told["value"], _plain(told["extra"]), keys, reached)


def main() -> None:
    """The child's end."""
    from jepsen.workloads.log_kafka import KafkaLog

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    client: KafkaLog | None = None
    for line in sys.stdin:
        asked = _plain(read(line))
        outcome = Outcome("ok")
        match asked["f"]:
            case "open":
                bootstrap, process = asked["bootstrap"], asked["process"]
                assert isinstance(bootstrap, tuple)
                assert isinstance(process, int)
                client = KafkaLog(list(bootstrap), process, str(asked["group"]), str(asked["transactional"]))
            case "close":
                if client is not None:
                    client.close()
                client = None
            case f:
                assert client is not None
                outcome = client.invoke(Op(str(f), asked["value"], _plain(asked["extra"]), hint=str(asked["hint"])))
        told = {
            "type": outcome.type,
            "value": outcome.value,
            "extra": _named(outcome.extra),
            "keys": outcome.keys,
            "reached": dict(outcome.reached),
        }
        answers.write(write(_named(told)) + "\n")
        answers.flush()
