"""A durable, multiplexed Raft: pysyncobj elects, this package replicates. It knows nothing of topics or RocksDB.

The contract, which everything here keeps: **persist, then send, then apply**. What a message promises (a vote, an
acknowledgement, a client's answer) is on disk before it leaves; what is applied is committed and on this disk. The one
exception: a leader may send entries while its own fsync runs, for its copy counts like any other only once it is
durable.

Where to begin: `model` and `messages` are the data, `replication` the pure state machine, `election` (with
`pysyncobj_seams`) who leads, `group` one replica of both, `host` all of a node's. `store`, `transport` and `machine`
are what is asked of a disk, a network and a state machine; `tcp` is the network we ship, `commit` the group commit,
`snapshot` how a replica is filled, `formation` and `identity` how nodes become a cluster, `errors` how any of it
fails.
The rules C1 to C13 that the texts refer to stand in docs/ARCHITECTURE.md; tests/unit/consensus/golden shows each.
"""
