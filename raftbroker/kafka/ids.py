"""Topic ids: 32 hex digits in the broker, UUIDs on the wire."""

import uuid

NO_ID = uuid.UUID(int=0)
"""Says that there is no id; a decoded request has None in its place."""


def uuid_of(topic_id: str) -> uuid.UUID:
    """NO_ID for a topic that has none, because it was not made."""
    return uuid.UUID(hex=topic_id) if topic_id else NO_ID


def topic_id_of(found: uuid.UUID | None) -> str:
    """Empty for NO_ID."""
    return found.hex if found is not None else ""
