"""One webhook, "billing"; it answers the same whatever is asked of it."""

from collections.abc import Mapping

from raftbroker.broker.errors import UnknownWebhook
from raftbroker.broker.webhook_runs import RunStatus
from raftbroker.broker.webhooks import WebhookInfo, Webhooks
from raftbroker.state.webhooks import Change, Webhook

INFO = WebhookInfo(
    Webhook("billing", "00", 1, 5, topic="orders", url="https://billing.example/"), (RunStatus("00", 0, 1),), None, None
)


class StandInWebhooks(Webhooks):
    def __init__(self) -> None:
        pass

    async def put(
        self, name: str, changes: Mapping[str, Change], *, latest: bool = False, timeout: float = 15.0
    ) -> tuple[WebhookInfo, bool]:
        return INFO, True

    async def get(self, name: str, *, timeout: float = 10.0) -> WebhookInfo:
        if name != "billing":
            raise UnknownWebhook(f"there is no webhook {name}", field="webhook")
        return INFO

    async def list_webhooks(self, *, timeout: float = 10.0) -> list[WebhookInfo]:
        return [INFO]

    def local(self) -> list[tuple[str, RunStatus]]:
        return [("billing", run) for run in INFO.runs]

    async def pause(self, name: str, paused: bool, *, timeout: float = 15.0) -> WebhookInfo:
        return await self.get(name)

    async def delete(self, name: str, *, timeout: float = 15.0) -> None:
        await self.get(name)
