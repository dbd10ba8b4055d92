"""The cutter finds the same objects however the stream was cut up on its way."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raftbroker.http.json_stream import Broken, JsonCutter

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=4)
spaces = st.sampled_from(["", " ", "\n", "\r\n", "\t \n"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(objects, spaces), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_any_cut_gives_the_same_objects(stream: list[tuple[dict[str, Any], str]], cuts: list[int]) -> None:
    text = "".join(json.dumps(one, ensure_ascii=False) + space for one, space in stream).encode()
    cutter = JsonCutter(1 << 20)
    found: list[bytes] = []
    at = turn = 0
    while at < len(text):
        step = cuts[turn % len(cuts)]
        found += cutter.feed(text[at : at + step])
        at, turn = at + step, turn + 1
    assert [json.loads(one) for one in found] == [one for one, _ in stream]
    assert cutter.unfinished == 0
    assert cutter.broken is None


def test_an_object_is_given_as_soon_as_it_ends() -> None:
    cutter = JsonCutter(100)
    assert cutter.feed(b'{"a":"}\\"') == []
    assert cutter.feed(b'"}{"b":1}{') == [b'{"a":"}\\""}', b'{"b":1}']
    assert cutter.unfinished == 1


def test_what_is_not_an_object_ends_the_stream_after_what_came_before() -> None:
    cutter = JsonCutter(100)
    assert cutter.feed(b'{"a":1} [2] {"c":3}') == [b'{"a":1}']
    assert cutter.broken is Broken.NOT_AN_OBJECT
    assert cutter.feed(b'{"d":4}') == []


def test_an_object_that_is_too_large_ends_the_stream() -> None:
    whole, endless = JsonCutter(10), JsonCutter(10)
    assert whole.feed(b'{"a":1}{"a":"long enough"}') == [b'{"a":1}']
    assert whole.broken is Broken.TOO_LARGE
    assert endless.feed(b'{"a":"' + b"x" * 20) == []
    assert endless.broken is Broken.TOO_LARGE


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=10))
def test_no_bytes_make_it_raise_or_keep_more_than_allowed(pieces: list[bytes]) -> None:
    cutter = JsonCutter(64)
    for piece in pieces:
        for one in cutter.feed(piece):
            assert len(one) <= 64
        if cutter.broken is None:
            assert cutter.unfinished <= 64
