"""The chaos harness: runs clusters, breaks them, records what clients saw, and judges it.

The judging half is pure: `edn` and `history` read what was recorded, `checkers` find what must not be, and `check` is
the command around them. None of it knows how a history came about, so it judges anybody's.
"""
