"""Messages that kafka-python has no definition of, in the form of Kafka's own: a JSON file for each, and a class.

The files say what Kafka's protocol guide does: a field's name, type, the versions it is in and may be null in, its
default. `consumer_groups.pyi` says the same to the type checker.
"""
