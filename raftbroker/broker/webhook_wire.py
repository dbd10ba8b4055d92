"""What nodes ask of each other about webhooks: changes of the control leader, and how deliveries fare of everyone."""

import msgspec

from raftbroker.broker.webhook_runs import RunStatus
from raftbroker.broker.wire import Answer, Method
from raftbroker.state.webhooks import Change


class PutWebhookRequest(msgspec.Struct, frozen=True, array_like=True):
    """`id` is drawn by the asker, so that a repeated request recognises its own webhook. With `make` false the webhook
    must be there."""

    name: str
    id: str
    make: bool
    topic_id: str
    starts: tuple[int, ...]
    changes: dict[str, Change]
    timeout: float

    def __repr__(self) -> str:
        return f"PutWebhookRequest({self.name!r})"


class DeleteWebhookRequest(msgspec.Struct, frozen=True, array_like=True):
    name: str
    id: str
    timeout: float


class WebhookStatusRequest(msgspec.Struct, frozen=True, array_like=True):
    webhook: str
    """Its id; empty for all."""


class WebhookStatuses(msgspec.Struct, frozen=True, array_like=True):
    runs: tuple[RunStatus, ...]


PUT_WEBHOOK = Method("control.put_webhook.1", PutWebhookRequest, Answer[int])
DELETE_WEBHOOK = Method("control.delete_webhook.1", DeleteWebhookRequest, Answer[int])
WEBHOOK_STATUS = Method("webhook.status.1", WebhookStatusRequest, Answer[WebhookStatuses])
