"""What clients do to a cluster, by name: see each module's text."""

from jepsen.workloads.base import Workload
from jepsen.workloads.churn import ChurnWorkload
from jepsen.workloads.groups import GroupsWorkload
from jepsen.workloads.log import LogWorkload
from jepsen.workloads.queue import QueueWorkload
from jepsen.workloads.register import RegisterWorkload
from jepsen.workloads.txn import TxnWorkload

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, type[Workload]] = {
    kind.name: kind
    for kind in (LogWorkload, TxnWorkload, QueueWorkload, GroupsWorkload, RegisterWorkload, ChurnWorkload)
}
