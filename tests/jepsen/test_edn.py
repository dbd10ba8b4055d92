"""EDN: what is read, what is refused and where, and that what is written is read again."""

import contextlib
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepsen.edn import DEPTH_MAX, Char, EdnError, Keyword, Map, Reader, Symbol, Tagged, read, read_all, write

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.fractions(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[a-z][a-z0-9?!*/.-]{0,8}", fullmatch=True).map(Keyword),
    st.sampled_from(["+", "-", "a/b", "seek!", "->x", "nilly"]).map(Symbol),
    st.characters(categories=("L", "N", "P", "S")).map(Char),
)
forms = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(inner, inner, max_size=4).map(Map),
        st.frozensets(inner, max_size=4),
        st.builds(Tagged, st.sampled_from(["inst", "my/tag"]), inner),
    ),
    max_leaves=20,
)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types: True is not 1, and 1 is not 1.0."""
    return one == other and write(one) == write(other)


@given(forms)
def test_what_is_written_is_read(form: object) -> None:
    assert same(read(write(form)), form)


@given(forms, st.integers(0, 40))
def test_it_does_not_matter_where_lines_end(form: object, seed: int) -> None:
    text = write([form, form]).replace(" ", "\n" if seed % 2 else " \n,; a comment ]\n")
    if '"' not in text and "\\" not in text:
        assert same(read(text), (form, form))


@given(st.text(alphabet="[](){}#_:;\"\\^ \n,ab1.-/+eNM'~@", max_size=30) | st.text(max_size=30))
def test_anything_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(EdnError):
        for form in read_all(text):
            assert "##NaN" in text or same(read(write(form)), form)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("[1 (2 3)]", (1, (2, 3))),
        ("{:a 1, :b [true nil]}", Map({Keyword("a"): 1, Keyword("b"): (True, None)})),
        ("#{1 2}", frozenset({1, 2})),
        ("-0", 0),
        ("+7", 7),
        ("12345678901234567890123N", 12345678901234567890123),
        ("1.5e3", 1500.0),
        ("1.50M", Decimal("1.50")),
        ("2/4", Fraction(1, 2)),
        ('"a\\n\\u00e9\\\\"', "a\né\\"),
        ("\\newline", Char("\n")),
        ("\\u0041", Char("A")),
        ("##-Inf", -math.inf),
        ('#inst "2026-01-01"', Tagged("inst", "2026-01-01")),
        ("#jepsen.history.Op{:index 0}", Tagged("jepsen.history.Op", Map({Keyword("index"): 0}))),
        ("[1 #_ 2 #_ #_ 3 4 5]", (1, 5)),
        ("; said\n[1 ; of this\n 2]", (1, 2)),
        ("{[1] {#{} nil}}", Map({(1,): Map({frozenset(): None})})),
    ],
)
def test_forms(text: str, form: object) -> None:
    assert same(read(text), form)


def test_keywords_are_made_once_and_are_no_strings() -> None:
    assert read(":a") is Keyword("a")
    assert read(":a") != "a"
    assert read("a") is not Keyword("a")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("[1 2", "1:1", "[ at line 1, column 1 is not complete"),
        ("[1\n (2]", "2:4", "] where ( from line 2, column 2 is open"),
        (" }", "1:2", "} closes nothing"),
        ("{:a 1 :b}", "1:9", "the last key has no value"),
        ("{:a 1 :a 2}", "1:11", "the same key twice"),
        ("#{1 1}", "1:6", "the same form twice"),
        ("[#_]", "1:4", "#_ has no form behind it"),
        ("[#inst]", "1:7", "#inst has no form behind it"),
        ("1 2 007", "1:5", "cannot read '007'"),
        ("^{:a 1} b", "1:1", "cannot read"),
        ('"a\\qb"', "1:1", "holds \\q"),
        ('[1 "never\nends', "2:1", "ends within a string"),
        ("[" * (DEPTH_MAX + 1), f"1:{DEPTH_MAX + 1}", "nested deeper"),
        ("9" * 5000, "1:1", "more than 4000 digits"),
    ],
)
def test_refusals_say_where_and_why(text: str, where: str, what: str) -> None:
    with pytest.raises(EdnError) as refused:
        read_all(text, "h.edn")
    assert str(refused.value).startswith(f"h.edn:{where}: ")
    assert what in str(refused.value)


def test_a_wrapper_is_taken_off() -> None:
    reader = Reader(unwrap=True)
    found = [form for line in ("; all of it\n", "[1\n", "[2]\n", "3] ; and no more\n") for form in reader.feed(line)]
    reader.finish()
    assert found == [1, (2,), 3]
    with pytest.raises(EdnError, match="behind the end"):
        reader.feed("4\n")
