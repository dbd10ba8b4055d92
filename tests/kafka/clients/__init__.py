"""Other people's clients as programs of one form, each as its own documentation would have it written.

PROGRAM create|delete|describe|list BOOTSTRAP TOPIC     describe: the number of partitions; list: names
PROGRAM produce BOOTSTRAP TOPIC COMPRESSION             a line of standard input is a record; ends with 0 if all
                                                        were acknowledged; idempotence on
PROGRAM consume BOOTSTRAP TOPIC GROUP                   a line for a record once it is committed; ends on SIGTERM
"""
