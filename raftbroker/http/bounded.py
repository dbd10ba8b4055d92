"""A bound on the front door's connections: one more than may be there is told so with 503 and closed at once, so that a
flood of connections takes no file descriptor from the store."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from raftbroker.http.problems import UNAVAILABLE


def bounded(runner: web.AppRunner, connections_max: int) -> Callable[[], asyncio.BaseProtocol]:
    """What accepts a connection of the front door, whose runner has been set up: for `create_server`."""
    server = runner.server
    assert server is not None

    def accept() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < connections_max else _Refusal(connections_max)

    return accept


class _Refusal(asyncio.Protocol):
    def __init__(self, most: int) -> None:
        self._text = (
            f'{{"error_code":{UNAVAILABLE},"message":"This node has {most} HTTP connections (http.connections_max); '
            'try again a little later, or another node."}'
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n%b" % (len(self._text), self._text)
        )
        transport.close()
