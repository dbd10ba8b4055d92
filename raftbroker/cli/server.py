"""Runs one node until it is told to stop: `raftbroker server`, and what `raftbroker dev` starts for each node.

Started as `python -m raftbroker.cli.server` it loads neither Typer nor Rich. Exit statuses: 0 after a clean stop,
`EXIT_CONFIG` for a configuration that cannot be used, `EXIT_DAMAGED` for a store that must not be trusted,
`EXIT_PORT` for an address that is taken, 1 for anything else. The last line on standard error says why.
"""

import argparse
import asyncio
import errno
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raftbroker.cli.memory import freeze_program, give_back_freed_memory
from raftbroker.config import Config, ConfigError, exposures, load, split_address

if TYPE_CHECKING:
    from raftbroker.node import Node

EXIT_CONFIG = 2
EXIT_DAMAGED = 3
EXIT_PORT = 4
STORE_FILES = 2048
"""Open files that connections leave to the store and to peers."""
STOP_SECONDS_MAX = 20.0

_logger = logging.getLogger("raftbroker.cli.server")  # not __name__, which is __main__ in a node's process


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return _timestamp(record.created)


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def set_up_logging(config: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.logging.json else TextFormatter())
    logging.basicConfig(level=config.logging.level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def run(path: Path | None, sets: Sequence[str], *, watch_parent: bool = False) -> int:
    """Runs the node until SIGTERM or SIGINT; returns the exit status."""
    try:
        config = load(path, sets, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"configuration: {problem}\n")
        return EXIT_CONFIG
    set_up_logging(config)
    _allow_files(config)
    for exposure in exposures(config):
        _logger.warning("%s", exposure)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, watch_parent=watch_parent))


def _allow_files(config: Config) -> None:
    """As many open files as this process may have, for connections must leave some to the store."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.http.connections_max + config.kafka.connections_max + STORE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            _logger.warning(
                "this process may open %d files, its connections and its store want %d: raise the limit (ulimit -n, "
                "LimitNOFILE=) or lower http.connections_max and kafka.connections_max",
                soft,
                wanted,
            )


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on this platform; asyncio's own loop serves
        return None
    return uvloop.Loop


async def _serve(config: Config, *, watch_parent: bool) -> int:
    from consensus.errors import Damaged
    from raftbroker.node import Node

    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    if watch_parent:
        from raftbroker.cli.parent import watch_standard_input

        watch_standard_input(stopping.set)
    trimming = asyncio.create_task(give_back_freed_memory())
    try:
        node = Node(config)
        try:
            await node.start()
            freeze_program()
            _logger.info("node %d serves HTTP on %s", config.node.id, config.http.listen)
            await _until_stopped(node, stopping)
        finally:
            trimming.cancel()
            await _stop(node)
    except Damaged as error:
        _logger.critical("the store is damaged, and this node will not use it: %s", error)
        return EXIT_DAMAGED
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            _logger.critical("%s", port_message(config, str(error)))
            return EXIT_PORT
        _logger.critical("the node stopped: %s", error, exc_info=error)
        return 1
    except Exception as error:
        _logger.critical("the node stopped: %s: %s", type(error).__name__, error, exc_info=error)
        return 1
    return 0


async def _until_stopped(node: "Node", stopping: asyncio.Event) -> None:
    """Returns when the node is told to stop; raises the cause when it cannot go on."""
    node.failed.add_done_callback(lambda _: stopping.set())
    await stopping.wait()
    if node.failed.done():
        raise node.failed.result()


def _stop_on_signals(stopping: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT stops the node in good order, the second at once."""

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _stop(node: "Node") -> None:
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await node.stop()
    except TimeoutError:
        _logger.error("the node did not stop within %.0f s; leaving (nothing acknowledged is lost)", STOP_SECONDS_MAX)
        os._exit(1)


def port_message(config: Config, reason: str) -> str:
    """Which key's address is taken, as far as the system's message tells, and what to do."""
    listeners = {
        "http.listen": config.http.listen,
        "peers.listen": config.peers.listen,
        "kafka.listen": config.kafka.listen,
    }
    for key, address in listeners.items():
        _, port = split_address(address)
        if f"{port})" in reason or f":{port}" in reason:
            return (
                f"{key}: {address} is in use by another process; stop that one (`ss -ltnp 'sport = :{port}'` names it)"
                f" or set {key} to a free port"
            )
    return f"an address is in use by another process: {reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m raftbroker.cli.server`; takes --config, --set and, from `raftbroker dev`, --parent."""
    parser = argparse.ArgumentParser(prog="python -m raftbroker.cli.server", description="Run one raftbroker node.")
    parser.add_argument("--config", type=Path, help="the node's TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="set one key")
    parser.add_argument("--parent", type=int, help="stop when this process, the parent, is gone")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        from raftbroker.cli.parent import die_with_parent

        die_with_parent(options.parent)
    return run(options.config, options.set, watch_parent=options.parent is not None)


if __name__ == "__main__":
    sys.exit(main())
