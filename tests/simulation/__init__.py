"""Deterministic simulation of whole nodes: one seed, one run. `python -m tests.simulation --help`."""
