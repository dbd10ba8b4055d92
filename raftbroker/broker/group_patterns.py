"""Which topics a regular expression means. RE2: whatever the pattern, it takes time linear in the names."""

from collections.abc import Callable

import re2

from raftbroker.broker.errors import InvalidRequest

PATTERN_CHARS_MAX = 10_000
"""Long enough for a list of topic names."""
MEMORY_MAX = 4 << 20
"""Of one compiled pattern, in bytes."""


def topic_pattern(pattern: str) -> Callable[[str], bool]:
    """Whether a whole topic name matches. Raises InvalidRequest, which says what is wrong with the pattern."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise InvalidRequest(f"a topic pattern has at most {PATTERN_CHARS_MAX} characters", field="topic_pattern")
    options = re2.Options()
    options.max_mem = MEMORY_MAX
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidRequest(
            f"{pattern[:100]!r} is not a regular expression that RE2 takes: {text}", field="topic_pattern"
        ) from error
    return lambda name: compiled.fullmatch(name) is not None
