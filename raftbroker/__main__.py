"""`python -m raftbroker`: the same as `raftbroker`, where its folder is not on the PATH."""

from raftbroker.cli import main

if __name__ == "__main__":
    main()
