"""The HTTP front door: Confluent's REST v3 and v2, direct reads, the cluster's own routes, health and metrics.

It decodes, calls the broker, encodes; it has no rules of its own. `make_app` builds the application over a `Broker`,
`make_runner` gives it aiohttp's runner with the bounds set, `bounded` accepts its connections; sockets are made by
whoever composes the node.
"""

from raftbroker.http.app import make_app, make_runner
from raftbroker.http.bounded import bounded
from raftbroker.http.options import HttpOptions, Metric, ProcessUsage

__all__ = ["HttpOptions", "Metric", "ProcessUsage", "bounded", "make_app", "make_runner"]
