"""What a webhook may be, and how it is changed."""

import pytest

from raftbroker.state.control_commands import PutWebhook
from raftbroker.state.webhooks import NUMBERS, Change, InvalidWebhook, Webhook, changed, check_name

FRESH = Webhook("hook", "id", 0, 1)
NEEDED: dict[str, Change] = {"topic": "orders", "url": "https://a.b/", "secret": "0123456789abcdef"}


def test_a_webhook_is_made_and_changed_field_by_field() -> None:
    made = changed(FRESH, NEEDED)
    assert (made.version, made.topic, made.batch_size, made.paused) == (1, "orders", 100, False)
    assert changed(made, NEEDED) is made, "nothing differs"
    more = changed(made, {"batch_size": 5, "paused": True})
    assert (more.version, more.batch_size, more.paused, more.url) == (2, 5, True, made.url)
    assert changed(more, {"batch_size": None}).batch_size == 100


def test_the_secret_is_in_no_text_of_it() -> None:
    made = changed(FRESH, NEEDED)
    for shown in (repr(made), str(made), repr(PutWebhook(made)), f"{[made]}"):
        assert "0123456789abcdef" not in shown


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("topic", {"topic": ""}),
        ("topic", {"queue": "q"}),
        ("url", {"url": ""}),
        ("url", {"url": None}),
        ("secret", {"secret": "short"}),
        ("secret", {"secret": "with spaces, not visible"}),
        ("secret", {"secret": None}),
        ("batch_size", {"batch_size": True}),
        ("batch_size", {"batch_size": "5"}),
        ("paused", {"paused": 1}),
        ("backoff_ms_max", {"backoff_ms": 1000, "backoff_ms_max": 999}),
        ("colour", {"colour": "red"}),
        *((name, {name: least - 1}) for name, (least, _) in NUMBERS.items()),
        *((name, {name: most + 1}) for name, (_, most) in NUMBERS.items()),
    ],
)
def test_what_cannot_be_taken_names_its_field(field: str, changes: dict[str, Change]) -> None:
    with pytest.raises(InvalidWebhook) as caught:
        changed(FRESH, NEEDED | changes)
    assert caught.value.field == field
    assert str(changes.get("secret")) == "None" or str(changes["secret"]) not in str(caught.value)


def test_a_queue_has_its_own_dead_letter_queue() -> None:
    queue: dict[str, Change] = {"queue": "q", "url": "https://a.b/", "secret": "0123456789abcdef"}
    assert changed(FRESH, queue).queue == "q"
    with pytest.raises(InvalidWebhook, match=r"dead_letter_queue .*dead\.letter\.queue"):
        changed(FRESH, queue | {"dead_letter_queue": "d"})


def test_the_source_is_not_changed() -> None:
    made = changed(FRESH, NEEDED)
    for changes in ({"topic": "other"}, {"topic": "", "queue": "q"}):
        with pytest.raises(InvalidWebhook, match="delete the webhook"):
            changed(made, changes)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "x" * 201, "a/b"])
def test_names(name: str) -> None:
    check_name("billing.orders-2_x")
    with pytest.raises(InvalidWebhook):
        check_name(name)
