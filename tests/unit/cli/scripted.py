"""A real HTTP server on a free port that answers as it is told, fault by fault, and remembers what it was asked.

For the faults that a real node gives only now and then: refusals, broken connections, answers that never come.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    close_unanswered: bool = False
    """Breaks the connection after the request was read, without an answer."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server:
    def __init__(self, replies: list[Reply]) -> None:
        self.asked: list[Asked] = []
        self.replies = replies
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(Asked(self.command, self.path, dict(self.headers), body))
                reply = (
                    outer.replies.pop(0) if outer.replies else Reply(404, b'{"error_code":404,"message":"unscripted"}')
                )
                if reply.close_unanswered:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_DELETE = do_PATCH = serve  # noqa: N815 - the base class looks for these names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                """Nothing: what was asked is in `asked`."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def serving(*replies: Reply) -> Iterator[Server]:
    server = Server(list(replies))
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
