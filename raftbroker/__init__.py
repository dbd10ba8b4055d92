"""raftbroker: a fault-tolerant message broker in Python."""
