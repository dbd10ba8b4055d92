"""Graphs: components and short cycles against the transitive closure, and real time in a linear number of edges."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.graph import Timeline, components, later_only, not_in_order, shortest_cycle
from tests.jepsen import oracle

NODES = 7

edges = st.frozensets(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)).filter(lambda edge: edge[0] != edge[1]), max_size=16
)


def targets(of: frozenset[tuple[int, int]]) -> list[list[int]]:
    return [sorted(after for before, after in of if before == node) for node in range(NODES)]


@settings(deadline=None)
@given(edges)
def test_components(drawn: frozenset[tuple[int, int]]) -> None:
    found = components(range(NODES), targets(drawn).__getitem__)
    assert sorted(map(sorted, found)) == sorted(map(sorted, oracle.components(set(drawn))))


@settings(deadline=None)
@given(edges)
def test_shortest_cycles(drawn: frozenset[tuple[int, int]]) -> None:
    following = targets(drawn)
    for part in components(range(NODES), following.__getitem__):
        cycle = shortest_cycle(part, lambda: following.__getitem__, budget=10_000)
        assert all(after in following[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        assert len(set(cycle)) == len(cycle) == min(map(_length_of_cycle_through(following), part))
        assert shortest_cycle(part, lambda: following.__getitem__, budget=0), "some cycle is found without any budget"


def _length_of_cycle_through(following: list[list[int]]):  # type: ignore[no-untyped-def] # a key function
    def length(start: int) -> int:
        reached, steps = set(following[start]), 1
        while start not in reached:
            reached = {after for node in reached for after in following[node]}
            steps += 1
        return steps

    return length


@st.composite
def timelines(draw: st.DrawFn) -> tuple[list[int], list[int | None]]:
    """When operations began, ascending, and when they ended: every moment is one event's."""
    moments = draw(st.permutations(range(2 * NODES)))
    spans = sorted(sorted(moments[2 * node : 2 * node + 2]) for node in range(NODES))
    open_for_ever = draw(st.sets(st.integers(0, NODES - 1)))
    return [begin for begin, _ in spans], [None if n in open_for_ever else end for n, (_, end) in enumerate(spans)]


def before(one: int, other: int, spans: tuple[list[int], list[int | None]]) -> bool:
    end = spans[1][one]
    return end is not None and end < spans[0][other]


@settings(deadline=None)
@given(timelines())
def test_paths_of_a_timeline_are_real_time(spans: tuple[list[int], list[int | None]]) -> None:
    time = Timeline(*spans)
    count = 0
    for node in range(NODES):
        reached, work = set(), [node]
        while work:
            for following in time.after(work.pop()):
                count += 1
                if following not in reached:
                    reached.add(following)
                    work.append(following)
        assert {other for other in reached if other < NODES} == {n for n in range(NODES) if before(node, n, spans)}
    nodes = range(NODES + len(time.completed))
    assert sum(len(list(time.after(node))) for node in nodes) <= 3 * NODES


@settings(deadline=None)
@given(timelines(), edges)
def test_what_fits_no_order(spans: tuple[list[int], list[int | None]], drawn: frozenset[tuple[int, int]]) -> None:
    all_edges = set(drawn) | {(a, b) for a in range(NODES) for b in range(NODES) if before(a, b, spans)}
    stuck = set().union(*oracle.components(all_edges), set())
    while more := {b for a, b in all_edges if a in stuck} - stuck:
        stuck |= more
    assert set(not_in_order(targets(drawn), Timeline(*spans))) == stuck


@given(st.lists(st.integers(0, 20), max_size=8))
def test_later_ones_are_given_once(ended: list[int]) -> None:
    nodes, invoked = list("abcdef"), [2, 5, 9, 12, 15, 19]
    after = later_only(range(len(nodes)), invoked)
    given_before: list[int] = []
    for end in ended:
        fresh = list(after(end))
        assert not set(fresh) & set(given_before)
        given_before += fresh
        assert {n for n, begin in enumerate(invoked) if begin > end} <= set(given_before)
    assert all(invoked[n] > min(ended) for n in given_before)
