"""Mutual TLS between nodes: nobody without a certificate of the cluster's CA; the secret is optional then."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest

from consensus.tcp import PeerTls
from tests.unit.consensus.tcp_world import FAST, LOOPS, Node, RawPeer, beat, large, meet, run, running, stranger, until

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.skipif(OPENSSL is None, reason="no openssl command to make certificates with"),
    pytest.mark.parametrize("loop", LOOPS),
]


def openssl(folder: Path, *arguments: str) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *arguments], cwd=folder, check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl(folder, "req", *key, "-keyout", f"{name}-node.key", "-out", "node.csr", "-subj", "/CN=node")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ("-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-CAcreateserial", "-extfile", "san")
    openssl(folder, "x509", "-req", "-in", "node.csr", *signed, "-out", f"{name}-node.pem")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("cluster", "other"):
        make_authority(folder, name)
    return folder


def contexts(folder: Path, *, own: str = "cluster", trusted: str = "cluster") -> PeerTls:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(folder / f"{own}-node.pem", folder / f"{own}-node.key")
        context.load_verify_locations(folder / f"{trusted}.pem")
    return PeerTls(server, client)


@pytest.mark.parametrize("secret", [b"", b"a secret as well"])
def test_nodes_of_one_authority_talk(loop: str, certificates: Path, secret: bytes) -> None:
    async def work() -> None:
        one, two = (Node(i, secret=secret, tls=contexts(certificates)) for i in (1, 2))
        async with running(one, two):
            await meet(one, two)
            sent = [beat(1), large(5 << 20), *(beat(number) for number in range(1000))]
            for message in sent:
                assert one.transport.send(2, message)
                assert two.transport.send(1, message)
            await until(lambda: len(one.inbox.messages) == len(two.inbox.messages) == len(sent))
            assert one.inbox.messages == two.inbox.messages == sent
            await two.transport.stop()
            await until(lambda: one.kinds == ["up", "down"])

    run(loop, work())


def test_a_wrong_secret_is_refused_within_tls_too(loop: str, certificates: Path) -> None:
    async def work() -> None:
        one, two = (Node(i, secret=b"x" * i, tls=contexts(certificates)) for i in (1, 2))
        async with running(one, two):
            await asyncio.sleep(0.5)
            assert one.kinds == two.kinds == []

    run(loop, work())


@pytest.mark.parametrize("odd", [1, 2])
def test_a_certificate_of_another_authority_is_refused(
    loop: str, certificates: Path, odd: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "consensus")

    async def work() -> None:
        own = {odd: "other"}
        one, two = (Node(i, secret=b"", tls=contexts(certificates, own=own.get(i, "cluster"))) for i in (1, 2))
        async with running(one, two):
            await asyncio.sleep(0.5)
            assert one.kinds == two.kinds == []
            assert not one.inbox.judged
            assert not two.inbox.judged
            told = "certificates of this cluster's authority" if odd == 1 else "CERTIFICATE_VERIFY_FAILED"
            await until(lambda: told in caplog.text, what=told)

    run(loop, work())


def test_plain_peers_and_silent_ones_get_nowhere(loop: str, certificates: Path) -> None:
    async def work() -> None:
        options = msgspec.structs.replace(FAST, half_open_max=5, handshake_timeout_s=0.5)
        one, two = (Node(i, secret=b"", tls=contexts(certificates), options=options) for i in (1, 2))
        plain = Node(3, secret=b"x")
        plain.transport.set_addresses({1: one.address})
        strangers = [RawPeer(stranger()) for _ in range(20)]
        async with running(one, introduce=False):
            for peer in strangers:
                await peer.dial(one.port)
            await until(lambda: len(one.transport._connections) <= 5)
            two.transport.set_addresses({1: one.address})
            async with running(two, plain, introduce=False):
                await meet(one, two)
                await asyncio.gather(*(peer.closed() for peer in strangers))
                assert plain.kinds == []
            for peer in strangers:
                await peer.close()

    run(loop, work())


def test_contexts_that_verify_nobody_are_refused(loop: str, certificates: Path) -> None:
    tls = contexts(certificates)
    tls.server.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="must require and verify certificates"):
        Node(1, tls=tls)
    with pytest.raises(ValueError, match="by a shared secret or by mutual TLS"):
        Node(1, secret=b"")
