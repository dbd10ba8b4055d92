"""Point-to-point queues: every message to one consumer, gone once acknowledged, its sender told.

A queue lives in the coordinator shard of its name, as state of `QueuesPart`. All is decided there, when an op is
applied: who holds which message, for how long, and what becomes of it. What has to go to another shard (a dead message
to its dead-letter queue, a receipt to a reply queue) lies in the outbox until the driver beside the leader has taken it
there; each shard remembers how far it has taken what others sent, so that each arrives once.

- `ops`: what may be asked, and the outcomes
- `config`: the configs of a queue
- `messages`, `queue`: what is known of a message, of a queue
- `segments`: the messages by number, and when their bodies may go
- `timers`, `numbers`: a heap and a FIFO for millions of messages
- `fates`, `dedup`, `outbox`: what became of messages, what was sent before, what is on its way
- `book`: the transitions; `part`: the ops
"""
