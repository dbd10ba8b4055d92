"""The one table of routes is made of these: it registers the handlers and is the source of `/openapi.json`.

A route says everything that a client may want to know of it: what it takes, what it answers, an example of both. A
handler takes a `Call` and returns a response, or raises a `Problem` or one of the broker's errors.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec
from aiohttp import web

from raftbroker.http.call import Call
from raftbroker.http.media import JSON

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Work(Enum):
    """Which bound a route's requests count against."""

    REQUEST = "request"
    POLL = "poll"
    """May wait for records: counted apart, so that waiting readers do not keep writers out."""
    PUSH = "push"
    """Lasts as long as its client wants."""
    PROBE = "probe"
    """Never refused for load: health and metrics."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a header."""

    name: str
    type: type
    summary: str
    header: bool = False
    required: bool = False
    example: str | int | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body by media type: its type, and an instance of it as the example."""

    forms: Mapping[str, tuple[type, msgspec.Struct]]
    required: bool = True
    repeated: bool = False
    """Several may follow each other in one body."""


def json_body(example: msgspec.Struct, *, repeated: bool = False) -> Body:
    return Body({JSON: (type(example), example)}, repeated=repeated)


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its type (`type` may be a generic alias such as `list[str]`; None for no body) and an example."""

    type: object = None
    example: object = None
    status: int = 200
    media: tuple[str, ...] = (JSON,)
    summary: str = "It is done."
    also: tuple[int, ...] = ()
    """Other statuses that mean success, with the same type."""


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: Handler
    name: str
    """The OpenAPI operationId."""
    summary: str
    tag: str
    answer: Answer
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    """Error codes beyond those that any route may answer."""
    work: Work = field(default=Work.REQUEST)
