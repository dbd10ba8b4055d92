"""What a cluster knows, as replicated state machines: control (nodes, groups, topics) and partition (offsets).

Everything here is pure: no clock, no random number, no socket, no file, no thread. A machine takes committed
commands and answers with the rows that changed; `restore` of those rows gives the same state again. Time, ids and
choices come in the command.
"""
