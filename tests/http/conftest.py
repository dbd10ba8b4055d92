"""Fixtures: the loop thread, the stand-in's front door."""

from collections.abc import Iterator

import pytest

from tests.http.harness import Client, LoopThread, door
from tests.http.stand_in import StandIn


@pytest.fixture(scope="session")
def thread() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.stop()


@pytest.fixture
def broker() -> StandIn:
    return StandIn({"orders": 3, "one": 1})


@pytest.fixture
def client(thread: LoopThread, broker: StandIn) -> Iterator[Client]:
    with door(thread, broker) as client:
        yield client
