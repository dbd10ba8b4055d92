"""The coordinator's side of transactions (KIP-98, 360, 447, 588), as one `Part` of a coordinator shard.

| file | its subject |
| --- | --- |
| `ops.py` | what may be asked of a transactional id, what becomes of it, and queries |
| `rows.py` | what is on disk: one row for each transactional id |
| `deadlines.py` | names by the time at which something is due |
| `part.py` | the part: producer ids and epochs, the states of a transaction, time-outs |

    EMPTY -> ONGOING -> PREPARE_COMMIT -> COMPLETE_COMMIT -> ONGOING ...
                     \\> PREPARE_ABORT  -> COMPLETE_ABORT  -> ONGOING ...

A transaction begins with the first partition or consumer group that is added to it. It is decided when PREPARE_COMMIT
or PREPARE_ABORT is applied: from then on its outcome never changes. The shard's leader then has markers written in
every partition and ends the pending offsets in every group, again and again until all have answered, and has the
shard complete it (`broker.transaction_ends`).

Every transaction has a `number`, greater than those of its transactional id before it. Partitions and groups are given
it with what belongs to the transaction and with its end, so that nothing that comes late can touch another one.

A producer is fenced by its epoch, which rises with every InitProducerId and when the coordinator aborts a transaction
by itself: because its time is up, or because a new producer with the same transactional id has come.
"""
