"""A durable, multiplexed Raft: pysyncobj elects, this package replicates."""
