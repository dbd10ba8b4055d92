"""How two nodes prove themselves to each other before anything else is decoded (C7); no I/O here.

    dialler                                    acceptor
    Hello(identity, challenge)       ->
                                     <-        Hello(identity, challenge)
    Proof(proof)                     ->
                                     <-        Verdict(reason, proof)
    Verdict(reason, proof)           ->

A proof is HMAC-SHA256, keyed with the shared secret, of the prover's role and step, both hellos as they were sent, and
the verdict's reason: it can be neither replayed (both sides' fresh challenges are in it) nor reflected (the role is),
and no hello or verdict can be altered on the way. The secret itself is never sent. The dialler proves itself
first, so that whoever reaches the port learns nothing to test guesses of the secret against.

An empty reason means "welcome": either end has it from the other, proven, before it counts the connection as made.
What the proof does not do is to cover later frames: on a network that others can write to, use TLS. With mutual TLS
the secret may be empty; the proof then proves nothing, and the certificate does.

Failures are exceptions that carry the bytes to send, if any, before the connection is closed.
"""

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum, auto
from typing import Annotated

import msgspec

from consensus.errors import ConsensusError
from consensus.frames import VERSION, seal
from consensus.transport import Peer

CHALLENGE_BYTES = 32
HANDSHAKE_BYTES_MAX = 4096
"""No frame of a handshake is longer."""

_REASON_CHARACTERS_MAX = 900
_Short = Annotated[str, msgspec.Meta(max_length=64)]
_Challenge = Annotated[bytes, msgspec.Meta(min_length=CHALLENGE_BYTES, max_length=CHALLENGE_BYTES)]
_Mac = Annotated[bytes, msgspec.Meta(max_length=32)]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello", forbid_unknown_fields=True):
    node: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    uuid: _Short
    boot: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    nonce: _Short
    cluster: _Short
    address: Annotated[str, msgspec.Meta(max_length=280)]
    challenge: _Challenge


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof", forbid_unknown_fields=True):
    proof: _Mac


class Verdict(msgspec.Struct, frozen=True, array_like=True, tag="verdict", forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(max_length=_REASON_CHARACTERS_MAX)]
    proof: _Mac


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Hello | Proof | Verdict).decode


class HandshakeFailed(ConsensusError):
    """No connection comes of this; `reply` is to be sent before it is closed."""

    def __init__(self, message: str, reply: bytes = b"") -> None:
        self.reply = reply
        super().__init__(message)


class NotAPeer(HandshakeFailed):
    """What the other end says is not this protocol, or not this version of it."""


class WrongSecret(HandshakeFailed):
    """The other end does not hold the same shared secret."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__(
            "it does not prove this cluster's shared secret: set the same peers.secret on every node", reply
        )


class RefusedHere(HandshakeFailed):
    """The peer proved itself and this node will not talk with it."""

    def __init__(self, peer: Peer, reason: str, reply: bytes) -> None:
        self.peer, self.reason = peer, reason
        super().__init__(f"node {peer.node} is refused: {reason}", reply)


class RefusedThere(HandshakeFailed):
    """The peer proved itself and will not talk with this node."""

    def __init__(self, peer: Peer, reason: str) -> None:
        self.peer, self.reason = peer, reason
        super().__init__(f"node {peer.node} refuses this node: {reason}")


class _Step(Enum):
    HELLO = auto()
    PROOF = auto()
    VERDICT = auto()
    DONE = auto()


class Handshake:
    """One end of one handshake."""

    def __init__(
        self, me: Peer, secret: bytes, challenge: bytes, *, dialled: bool, judge: Callable[[Peer], str | None]
    ) -> None:
        """`challenge` are `CHALLENGE_BYTES` fresh random bytes; `judge` says why a proven peer is refused, or None."""
        assert len(challenge) == CHALLENGE_BYTES
        self._secret = secret
        self._dialled = dialled
        self._judge = judge
        self._mine = _encode(Hello(me.node, me.uuid, me.boot, me.nonce, me.cluster, me.address, challenge))
        self._transcript = b""
        self._claimed: Peer | None = None
        self._expected = _Step.HELLO

    @property
    def complete(self) -> bool:
        """Whether both ends have proven themselves and welcomed each other."""
        return self._expected is _Step.DONE

    @property
    def peer(self) -> Peer:
        """Who the other end is; only once `complete`."""
        assert self._claimed is not None
        assert self.complete
        return self._claimed

    def begin(self) -> bytes:
        """What to send as soon as the connection stands."""
        return seal(self._mine) if self._dialled else b""

    def receive(self, frame: bytes) -> bytes:
        """Takes the next frame (version byte and body); what to send in answer. Raises HandshakeFailed."""
        if frame[0] != VERSION:
            raise NotAPeer(
                f"it speaks version {frame[0]} of the peer protocol, this node version {VERSION}", self._hi()
            )
        try:
            message = _decode(frame[1:])
        except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
            raise NotAPeer(f"it does not speak the peer protocol ({error})") from error
        match message:
            case Hello() if self._expected is _Step.HELLO:
                return self._take_hello(message, frame[1:])
            case Proof() if self._expected is _Step.PROOF:
                return self._take_proof(message)
            case Verdict() if self._expected is _Step.VERDICT:
                return self._take_verdict(message)
            case _:
                raise NotAPeer(f"it sends a {type(message).__name__.lower()} out of turn")

    def _hi(self) -> bytes:
        """Our hello, if the other end has not had it: it tells a peer of another version which one this is."""
        return seal(self._mine) if not self._dialled and self._expected is _Step.HELLO else b""

    def _take_hello(self, hello: Hello, body: bytes) -> bytes:
        first, second = (self._mine, body) if self._dialled else (body, self._mine)
        self._transcript = hashlib.sha256(first).digest() + hashlib.sha256(second).digest()
        self._claimed = Peer(hello.node, hello.uuid, hello.boot, hello.nonce, hello.cluster, hello.address)
        if self._dialled:
            self._expected = _Step.VERDICT
            return seal(_encode(Proof(self._mac(b"dialler proof"))))
        self._expected = _Step.PROOF
        return seal(self._mine)

    def _take_proof(self, proof: Proof) -> bytes:
        if not hmac.compare_digest(proof.proof, self._mac(b"dialler proof")):
            # Nothing is proven by us either: an HMAC of ours would let a stranger test guesses of the secret.
            raise WrongSecret(seal(_encode(Verdict("the shared secrets differ", b""))))
        self._expected = _Step.VERDICT
        return self._answer(b"acceptor verdict")

    def _take_verdict(self, verdict: Verdict) -> bytes:
        assert self._claimed is not None
        role = b"acceptor verdict" if self._dialled else b"dialler verdict"
        if not hmac.compare_digest(verdict.proof, self._mac(role, verdict.reason)):
            raise WrongSecret
        if verdict.reason:
            raise RefusedThere(self._claimed, verdict.reason)
        reply = self._answer(b"dialler verdict") if self._dialled else b""
        self._expected = _Step.DONE
        return reply

    def _answer(self, role: bytes) -> bytes:
        """Our verdict on the peer, who has proven itself."""
        assert self._claimed is not None
        reason = (self._judge(self._claimed) or "")[:_REASON_CHARACTERS_MAX]
        reply = seal(_encode(Verdict(reason, self._mac(role, reason))))
        if reason:
            raise RefusedHere(self._claimed, reason, reply)
        return reply

    def _mac(self, role: bytes, reason: str = "") -> bytes:
        text = role + b"\0" + self._transcript + reason.encode()
        return hmac.digest(self._secret, text, "sha256")
