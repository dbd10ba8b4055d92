"""The `raftbroker` command.

`main` is its entry point. Importing this package costs next to nothing: node processes start through
`raftbroker.cli.server` without loading what only people need.
"""

import sys
import time


def main() -> None:
    """Runs the command in sys.argv; exits with 0 only on success."""
    started = time.monotonic()
    from raftbroker.cli.app import run

    sys.exit(run(started))
