"""Content types: what a body is said to be, and what the client will take.

Confluent's REST Proxy names the format of keys and values inside its own media types,
`application/vnd.kafka.{format}.v2+json`. We serve json and binary as it does, and string as well.
"""

from enum import Enum

from raftbroker.http.problems import NOT_ACCEPTABLE, UNSUPPORTED_MEDIA, Problem

JSON = "application/json"
V2 = "application/vnd.kafka.v2+json"


class Format(Enum):
    """How keys and values stand in JSON: as JSON itself, as base64 of their bytes, or as text."""

    JSON = "json"
    BINARY = "binary"
    STRING = "string"

    @property
    def media_type(self) -> str:
        return f"application/vnd.kafka.{self.value}.v2+json"


FORMATS = {format_.media_type: format_ for format_ in Format}
EMBEDDED_TYPES = tuple(FORMATS)

_V2_ANSWERS = {V2: V2, "application/vnd.kafka+json": V2, JSON: JSON}
_JSON_ANSWERS = {JSON: JSON, "application/problem+json": JSON}
_EMBEDDED_ANSWERS: dict[str, str] = {**{name: name for name in FORMATS}, V2: Format.BINARY.media_type}
_EMBEDDED_ANSWERS[JSON] = Format.JSON.media_type


def base_type(header: str) -> str:
    """The media type of a header's value, lower case, without parameters."""
    return header.split(";", 1)[0].strip().lower()


def _utf8(header: str) -> bool:
    for parameter in header.lower().split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            return False
    return True


def check_json_body(content_type: str | None) -> None:
    """Refuses a body that says it is anything but JSON; one that says nothing is taken as JSON."""
    if content_type is None or (base_type(content_type) == JSON and _utf8(content_type)):
        return
    raise Problem(
        UNSUPPORTED_MEDIA,
        f"The body's Content-Type is {content_type[:100]!r}; send JSON as UTF-8 with 'Content-Type: {JSON}'.",
    )


def check_v2_body(content_type: str | None) -> None:
    """Refuses a body that says it is neither JSON nor one of v2's types; what it embeds is not asked here."""
    if content_type is None or (base_type(content_type) in (*_V2_ANSWERS, *FORMATS) and _utf8(content_type)):
        return
    raise Problem(
        UNSUPPORTED_MEDIA,
        f"The body's Content-Type is {content_type[:100]!r}; send JSON as UTF-8 with 'Content-Type: {V2}'.",
    )


def embedded_format(content_type: str | None) -> Format:
    """The format of the keys and values in a v2 produce request's body."""
    if content_type is not None and _utf8(content_type):
        found = FORMATS.get(base_type(content_type))
        if found is not None:
            return found
    given = "missing" if content_type is None else repr(content_type[:100])
    raise Problem(
        UNSUPPORTED_MEDIA,
        f"The Content-Type is {given}; it must name the form of keys and values: one of {', '.join(EMBEDDED_TYPES)}.",
    )


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def _choose(accept: str | None, answers: dict[str, str], default: str) -> str:
    """The answer's type under RFC 9110's Accept: the highest quality wins, among equals the first named."""
    if not accept:
        return default
    best, best_quality = "", 0.0
    for item in accept.lower().split(",")[:64]:
        name, *parameters = item.split(";")
        name = name.strip()
        found = default if name in ("*/*", "application/*") else answers.get(name)
        quality = _quality(parameters)
        if found is not None and quality > best_quality:
            best, best_quality = found, quality
    if best:
        return best
    raise Problem(
        NOT_ACCEPTABLE, f"Nothing in Accept {accept[:200]!r} can be served here; ask for one of {', '.join(answers)}."
    )


def v2_answer(accept: str | None) -> str:
    return _choose(accept, _V2_ANSWERS, V2)


def json_answer(accept: str | None) -> str:
    return _choose(accept, _JSON_ANSWERS, JSON)


def embedded_answer(accept: str | None) -> Format:
    """The format in which records are read; JSON unless the client says otherwise."""
    return FORMATS[_choose(accept, _EMBEDDED_ANSWERS, Format.JSON.media_type)]
