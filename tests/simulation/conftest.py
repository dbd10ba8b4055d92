"""What a simulated run changes in the process is put back after each test."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def levels_of_logs() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("consensus", "raftbroker")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
