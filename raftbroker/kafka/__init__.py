"""The Kafka front door: unmodified Kafka clients speak with the broker here.

It decodes, calls `raftbroker.broker.broker.Broker`, encodes. No rule of the broker is in here, and nothing here is
imported by the layers below.

| file | its subject |
| --- | --- |
| `server.py` | the listener: accepts, bounds what all connections hold together, stops in order |
| `connection.py` | one connection: frames in, requests one after the other, answers in order, slow readers held back |
| `budget.py` | the bytes that all connections may hold together |
| `frames.py` | frames and the two headers |
| `reader.py` | reads hostile bytes field by field within bounds |
| `codec.py` | messages from kafka-python's definitions, read through `Reader` |
| `definitions/` | messages that kafka-python lacks, in the same form |
| `api.py` | what an API is, and what a handler is given and gives |
| `context.py` | what all handlers share, and what the listener is told |
| `metrics.py` | what is counted |
| `errors.py` | Kafka's error codes, and what the broker's errors are in them |
| `handlers/` | one file an API, and the table of them, from which ApiVersions is derived |

**To add an API**: write `handlers/its_name.py` with

    async def handle(context: KafkaContext, request: Request[XRequest]) -> XResponse: ...

    API = Api(key=..., name="X", min_version=..., max_version=..., codec=messages(XRequest, XResponse), handle=handle)

and put it into the table in `handlers/__init__.py`. That alone serves and advertises it. Then add it to the versions
in `tests/unit/kafka/`, which compares its bytes with other codecs' and sends it broken frames.

What must hold: a hostile or broken frame costs its own connection and nothing more; everything is bounded (bytes of
requests and of answers, of one connection and of all, connections, time); requests of a connection are begun and
answered in the order they came; record bytes are neither copied nor decoded on their way.
"""
