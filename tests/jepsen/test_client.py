"""What the harness's HTTP client says of a request whose connection breaks: with a real server on a real socket."""

import asyncio

import pytest

from jepsen.client import Http, NotSent, Unclear

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("listens_on", [True, False])
def test_what_went_out_is_never_called_not_sent_and_goes_out_once(method: str, listens_on: bool) -> None:
    """The first request is answered and its connection kept; the second arrives, and the server is gone."""
    arrived: list[str] = []

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                arrived.append(head.split(b" ")[0].decode())
                if len(arrived) > 1:
                    break
                writer.write(ANSWER)
            if not listens_on:
                server.close()
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        http = Http([f"http://127.0.0.1:{port}"], 0)
        try:
            assert (await http.call(method, "/")).status == 204
            with pytest.raises(Unclear):
                await http.call(method, "/")
            if not listens_on:
                with pytest.raises(NotSent):
                    await http.call(method, "/")
        finally:
            await http.close()
            server.close()

    asyncio.run(main())
    assert arrived == [method, method]
