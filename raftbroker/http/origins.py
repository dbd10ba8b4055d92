"""Which web pages may listen to and speak with this node.

A browser sends any page's WebSocket here, from within the user's network, and tells only where the page comes from. So
a request that has an `Origin` is served only for pages that the configuration names: unless told otherwise, those that
come from the user's own machine, and this node's own address. Requests without it are not from other sites' pages.
"""

import ipaddress
from urllib.parse import urlsplit

from raftbroker.http.call import Call
from raftbroker.http.problems import FORBIDDEN, Problem

LOOPBACK = "loopback"
ANY = "*"


def check_origin(call: Call) -> dict[str, str]:
    """The headers that let the page read the answer; none where no page asks. Raises Problem 403."""
    origin = call.request.headers.get("Origin")
    if origin is None:
        return {}
    if not allows(origin, call.options.allowed_origins, call.options.base_url):
        raise Problem(
            FORBIDDEN,
            f"Pages from {origin[:200]!r} may not use this node: name that origin in its configuration,"
            " http.allowed_origins.",
        )
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def allows(origin: str, allowed: tuple[str, ...], own: str) -> bool:
    """Whether a page of this origin is named, or allowed as one of the user's own machine or of this node."""
    if ANY in allowed:
        return True
    asked = origin.lower()
    if asked in allowed or asked == own.lower():
        return True
    return LOOPBACK in allowed and _is_loopback(asked)


def _is_loopback(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
