"""HTTP/1.1 on one kept-open connection, as lean as a load generator needs: it shall not take the nodes' CPU."""

import socket
import time

import msgspec

from bench.processes import Failed

_RECEIVE_BYTES = 1 << 18


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def number(self, header: str) -> int:
        """Raises Failed where there is no such header."""
        if header not in self.headers:
            raise Failed(f"an answer of status {self.status} has no {header}: {self.text}")
        return int(self.headers[header])

    @property
    def text(self) -> str:
        return self.body[:500].decode(errors="replace")


def request(
    method: str, address: str, path: str, body: bytes = b"", *, content_type: str = "", accept: str = ""
) -> bytes:
    """The bytes of a request, made once and sent many times."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if accept:
        lines.append(f"Accept: {accept}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """Connects when first used. Raises OSError when it breaks or nothing comes for `timeout` seconds."""

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        self.address = address
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._rest = b""

    def send(self, raw: bytes) -> Answer:
        """Sends a request made by `request` and waits for the whole answer."""
        if self._socket is None:
            host, _, port = self.address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)), self._timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(raw)
            return self._receive(self._socket)
        except OSError:
            self.close()
            raise

    def call(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> Answer:
        return self.send(request(method, self.address, path, body, content_type=content_type if body else ""))

    def _receive(self, connected: socket.socket) -> Answer:
        buffer = bytearray(self._rest)
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            self._more(connected, buffer)
        first, *lines = buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", ""):
            raise Failed("an answer came in chunks, which the benchmark's client does not read")
        length = end + 4 + int(headers.get("content-length", "0"))
        while len(buffer) < length:
            self._more(connected, buffer)
        self._rest = bytes(buffer[length:])
        answer = Answer(int(first.split(" ", 2)[1]), headers, bytes(buffer[end + 4 : length]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def _more(self, connected: socket.socket, buffer: bytearray) -> None:
        received = connected.recv(_RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError(f"{self.address} closed the connection")
        buffer += received

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""


def until(address: str, path: str, seconds: float, what: str, want: bytes = b"") -> None:
    """Asks again and again until the path answers 200 with `want` in it. Raises Failed when it takes longer."""
    deadline = time.monotonic() + seconds
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            connection = Connection(address, 2.0)
            answer = connection.call("GET", path)
            connection.close()
        except OSError as error:
            said = str(error)
        else:
            if answer.status == 200 and want in answer.body:
                return
            said = answer.text
        time.sleep(0.01)
    raise Failed(f"{what} within {seconds:g} s: http://{address}{path} last said: {said}")
