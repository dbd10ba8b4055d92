"""The benchmark: what the disk can do, what the Raft group and the broker make of it, in one run on one machine."""
