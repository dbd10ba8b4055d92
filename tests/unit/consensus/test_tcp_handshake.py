"""The handshake, byte by byte and without sockets: what it proves, and that nothing else passes for a proof."""

import secrets

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.handshake import (
    CHALLENGE_BYTES,
    HANDSHAKE_BYTES_MAX,
    Handshake,
    HandshakeFailed,
    NotAPeer,
    RefusedHere,
    RefusedThere,
    WrongSecret,
)
from consensus.transport import Peer

LOW = Peer(1, "a" * 32, 3, "nonce of 1", "cluster", "127.0.0.1:7001")
HIGH = Peer(2, "b" * 32, 4, "nonce of 2", "cluster", "127.0.0.1:7002")


def welcome(peer: Peer) -> str | None:
    return None


def ends(
    secrets_held: tuple[bytes, bytes] = (b"secret", b"secret"), reasons: tuple[str | None, str | None] = (None, None)
) -> tuple[Handshake, Handshake]:
    dialler = Handshake(LOW, secrets_held[0], b"d" * CHALLENGE_BYTES, dialled=True, judge=lambda peer: reasons[0])
    acceptor = Handshake(HIGH, secrets_held[1], b"a" * CHALLENGE_BYTES, dialled=False, judge=lambda peer: reasons[1])
    return dialler, acceptor


def exchange(dialler: Handshake, acceptor: Handshake) -> list[bytes]:
    """Passes the frames to and fro until one end has nothing to say; all that was sent."""
    sent = [dialler.begin()]
    receivers = [acceptor, dialler]
    while sent[-1]:
        frame = sent[-1]
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4 <= HANDSHAKE_BYTES_MAX
        sent.append(receivers[(len(sent) - 1) % 2].receive(frame[4:]))
    return sent[:-1]


def test_both_ends_learn_who_the_other_is() -> None:
    dialler, acceptor = ends()
    sent = exchange(dialler, acceptor)
    assert len(sent) == 5
    assert dialler.complete
    assert acceptor.complete
    assert (dialler.peer, acceptor.peer) == (HIGH, LOW)


def test_the_secret_is_never_sent_and_no_two_exchanges_are_alike() -> None:
    secret = b"not to be seen on the wire"
    proofs = set()
    for _ in range(3):
        dialler = Handshake(LOW, secret, secrets.token_bytes(32), dialled=True, judge=welcome)
        acceptor = Handshake(HIGH, secret, secrets.token_bytes(32), dialled=False, judge=welcome)
        sent = exchange(dialler, acceptor)
        assert secret not in b"".join(sent)
        proofs.update(sent[2:])
    assert len(proofs) == 9


@pytest.mark.parametrize("held", [(b"secret", b"other"), (b"", b"secret"), (b"secret", b""), (b"secre", b"secret")])
def test_another_secret_fails_at_both_ends(held: tuple[bytes, bytes]) -> None:
    dialler, acceptor = ends(held)
    proof = dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])
    with pytest.raises(WrongSecret, match=r"set the same peers\.secret on every node") as refused:
        acceptor.receive(proof[4:])
    assert not acceptor.complete
    with pytest.raises(WrongSecret):
        dialler.receive(refused.value.reply[4:])
    assert not dialler.complete


def test_the_acceptor_proves_nothing_to_a_stranger() -> None:
    """Whoever reaches the port must get no HMAC of the secret to test guesses against."""
    dialler, acceptor = ends((b"guess", b"secret"))
    hello = acceptor.receive(dialler.begin()[4:])
    proof = dialler.receive(hello[4:])
    with pytest.raises(WrongSecret) as refused:
        acceptor.receive(proof[4:])
    assert msgspec.msgpack.decode(refused.value.reply[5:]) == ["verdict", "the shared secrets differ", b""]
    assert len(msgspec.msgpack.decode(hello[5:])[-1]) == CHALLENGE_BYTES


def test_refusals_are_told_with_their_reason_and_proven() -> None:
    dialler, acceptor = ends(reasons=(None, "you were wiped"))
    proof = dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])
    with pytest.raises(RefusedHere, match="node 1 is refused: you were wiped") as here:
        acceptor.receive(proof[4:])
    with pytest.raises(RefusedThere) as there:
        dialler.receive(here.value.reply[4:])
    assert (there.value.peer, there.value.reason) == (HIGH, "you were wiped")
    reworded = here.value.reply[4:].replace(b"you were wiped", b"you are welcome"[:14])
    dialler, acceptor = ends(reasons=(None, "you were wiped"))
    dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])
    with pytest.raises(WrongSecret):
        dialler.receive(reworded)
    forged = msgspec.msgpack.encode(["verdict", "go away", b"x" * 32])
    dialler, acceptor = ends()
    dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])
    with pytest.raises(WrongSecret):
        dialler.receive(b"\x01" + forged)


def test_the_dialler_refuses_too() -> None:
    dialler, acceptor = ends(reasons=("another cluster", None))
    verdict = acceptor.receive(dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])[4:])
    with pytest.raises(RefusedHere) as here:
        dialler.receive(verdict[4:])
    with pytest.raises(RefusedThere, match="node 1 refuses this node: another cluster"):
        acceptor.receive(here.value.reply[4:])
    assert not acceptor.complete


def test_a_very_long_reason_is_cut_to_fit() -> None:
    dialler, acceptor = ends(reasons=(None, "\N{SNOWMAN}" * 100_000))
    proof = dialler.receive(acceptor.receive(dialler.begin()[4:])[4:])
    with pytest.raises(RefusedHere) as here:
        acceptor.receive(proof[4:])
    assert len(here.value.reply) < HANDSHAKE_BYTES_MAX
    with pytest.raises(RefusedThere):
        dialler.receive(here.value.reply[4:])


@pytest.mark.parametrize("step", range(5))
def test_no_changed_bit_gets_through(step: int) -> None:
    """Each bit of each frame, flipped on the way: never do both ends believe, nor either in another identity."""
    original = exchange(*ends())[step]
    for bit in range(len(original[4:]) * 8):
        dialler, acceptor = ends()
        receivers, sent, position = [acceptor, dialler], dialler.begin(), 0
        try:
            while sent:
                frame = bytearray(sent[4:])
                if position == step:
                    frame[bit // 8] ^= 1 << (bit % 8)
                sent = receivers[position % 2].receive(bytes(frame))
                position += 1
        except HandshakeFailed:
            pass
        assert not acceptor.complete, (step, bit)
        assert not dialler.complete or (step == 4 and dialler.peer == HIGH), (step, bit)


def test_a_recorded_dialler_cannot_be_replayed() -> None:
    recorded = exchange(*ends())
    acceptor = Handshake(HIGH, b"secret", secrets.token_bytes(32), dialled=False, judge=welcome)
    acceptor.receive(recorded[0][4:])
    with pytest.raises(WrongSecret):
        acceptor.receive(recorded[2][4:])


def test_a_recorded_acceptor_cannot_be_replayed() -> None:
    recorded = exchange(*ends())
    dialler = Handshake(LOW, b"secret", secrets.token_bytes(32), dialled=True, judge=welcome)
    dialler.receive(recorded[1][4:])
    with pytest.raises(WrongSecret):
        dialler.receive(recorded[3][4:])


def test_a_proof_cannot_be_reflected() -> None:
    """A stranger who echoes a dialler's own frames back to it proves nothing."""
    dialler = Handshake(LOW, b"secret", b"d" * 32, dialled=True, judge=welcome)
    proof = dialler.receive(dialler.begin()[4:])
    mac = msgspec.msgpack.decode(proof[5:])[1]
    with pytest.raises(WrongSecret):
        dialler.receive(b"\x01" + msgspec.msgpack.encode(["verdict", "", mac]))


def test_steps_out_of_turn_are_refused() -> None:
    sent = exchange(*ends())
    for early in (2, 3, 4):
        _, acceptor = ends()
        with pytest.raises(NotAPeer, match="out of turn"):
            acceptor.receive(sent[early][4:])
    dialler, acceptor = ends()
    acceptor.receive(dialler.begin()[4:])
    with pytest.raises(NotAPeer, match="a hello out of turn"):
        acceptor.receive(sent[0][4:])
    dialler, acceptor = ends()
    exchange(dialler, acceptor)
    with pytest.raises(NotAPeer, match="out of turn"):
        acceptor.receive(sent[4][4:])


def test_another_version_is_named_at_both_ends() -> None:
    _, acceptor = ends()
    with pytest.raises(NotAPeer, match="speaks version 2 of the peer protocol, this node version 1") as refused:
        acceptor.receive(b"\x02whatever a later version says")
    newer = bytearray(refused.value.reply[4:])
    assert newer[0] == 1, "our hello goes back, so that the other end can name the difference too"
    dialler, _ = ends()
    newer[0] = 2
    with pytest.raises(NotAPeer, match="speaks version 2") as refused:
        dialler.receive(bytes(newer))
    assert not refused.value.reply


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "x" * 65},
        {"address": "h" * 300},
        {"cluster": "c" * 65},
        {"nonce": "n" * 65},
        {"boot": -1},
        {"node": -1},
        {"node": 1 << 40},
    ],
    ids=str,
)
def test_identities_are_bounded(change: dict[str, str | int]) -> None:
    odd = Handshake(
        msgspec.structs.replace(LOW, **change), b"secret", b"d" * CHALLENGE_BYTES, dialled=True, judge=welcome
    )
    _, acceptor = ends()
    with pytest.raises(NotAPeer):
        acceptor.receive(odd.begin()[4:])


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2), st.booleans())
@settings(max_examples=300, deadline=None)
def test_noise_is_never_more_than_a_failed_handshake(noise: bytes, after: int, dialled: bool) -> None:
    dialler, acceptor = ends()
    frame = dialler.begin()
    receivers = [acceptor, dialler]
    for position in range(after):
        frame = receivers[position % 2].receive(frame[4:])
    victim = dialler if dialled else acceptor
    with pytest.raises(HandshakeFailed):
        victim.receive(noise)
    assert not victim.complete
