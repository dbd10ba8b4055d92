"""The decoder under broken requests: a short run of `python -m tests.fuzz_kafka`, and what Hypothesis thinks of."""

from hypothesis import given, settings
from hypothesis import strategies as st

from raftbroker.kafka.handlers import APIS
from tests.fuzz_kafka import read, run

KEYS = st.sampled_from(sorted(APIS))


def test_broken_requests_are_refused_and_sound_ones_are_read() -> None:
    report = run(20_000, seed=20_260)
    assert report.outcomes["read"] >= 2_000
    assert report.outcomes["broken"] >= 2_000


@settings(max_examples=300, deadline=None)
@given(KEYS, st.integers(-1, 20), st.binary(max_size=300))
def test_any_bytes_behind_any_api_and_version(key: int, version: int, rest: bytes) -> None:
    body = key.to_bytes(2, "big") + version.to_bytes(2, "big", signed=True) + rest
    read(len(body).to_bytes(4, "big") + body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    if len(data) >= 4:
        read(data)
