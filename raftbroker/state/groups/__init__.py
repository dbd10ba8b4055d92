"""Consumer groups and their offsets, as one `Part` of a coordinator shard. Kafka clients and HTTP consumers share them.

| file | its subject |
| --- | --- |
| `terms.py` | the error names, the states, and what is bounded |
| `ops.py` | what may be asked of a group, and what becomes of it |
| `rows.py` | what is on disk |
| `offsets.py` | committed offsets, those of open transactions, and when they expire |
| `classic.py` | the classic protocol: join, sync, leave, generations |
| `consumer.py` | KIP-848: member epochs, target and current assignments |
| `assignors.py` | who should get which partition, for KIP-848 |
| `part.py` | the part: finds the group, has it decide, writes the rows |
| `views.py` | the answers to queries |

What holds at every index, and is tested as such:

- Everything is decided when an op is applied. Heartbeats and sessions are not in here: the shard's leader keeps those
  and proposes that a member is gone; everything else that makes a generation is in the rows, so a leader that dies
  takes nothing with it.
- A commit of a member counts only in the generation (or at the member epoch) that it names: one that comes late is
  refused, by whatever leader it came through.
- In KIP-848 a partition is in the current assignments of at most one member, whatever the targets say.
- Offsets belong to the topic they were committed for, by its id: a topic that is deleted and made again inherits none.
"""
