"""Targets: every partition to one subscriber of its topic, even as far as subscriptions allow, and sticky."""

from hypothesis import given
from hypothesis import strategies as st

from raftbroker.state.groups.assignors import ASSIGNORS, Subscriber, assign_range, assign_uniform
from raftbroker.state.groups.consumer import pairs
from raftbroker.state.groups.rows import Assignment, Topics

NAMES = ("t", "u", "v")


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Subscriber], Topics]:
    topics = {name: (f"id-{name}", draw(st.integers(0, 7))) for name in draw(st.sets(st.sampled_from(NAMES)))}
    alike = draw(st.booleans())
    common = draw(st.frozensets(st.sampled_from(NAMES)))
    owners = st.integers(0, 5)
    had: dict[int, dict[str, list[int]]] = {}
    for name in NAMES:
        for number in range(8):
            had.setdefault(draw(owners), {}).setdefault(f"id-{name}", []).append(number)
    subscribers = [
        Subscriber(
            f"m{position}",
            draw(st.none() | st.just(f"i{position}")),
            common if alike else draw(st.frozensets(st.sampled_from(NAMES))),
            {topic: tuple(numbers) for topic, numbers in had.get(position, {}).items()},
        )
        for position in range(draw(st.integers(0, 5)))
    ]
    return subscribers, topics


def check(subscribers: list[Subscriber], topics: Topics, given: dict[str, Assignment]) -> None:
    names = {topic_id: name for name, (topic_id, _) in topics.items()}
    of = {subscriber.id: subscriber for subscriber in subscribers}
    assert given.keys() == of.keys()
    seen = [partition for assignment in given.values() for partition in pairs(assignment)]
    assert len(seen) == len(set(seen)), "a partition was given twice"
    wanted = {
        (topic_id, number)
        for name, (topic_id, count) in topics.items()
        if any(name in subscriber.names for subscriber in subscribers)
        for number in range(count)
    }
    assert set(seen) == wanted
    for member_id, assignment in given.items():
        assert all(names[topic_id] in of[member_id].names for topic_id in assignment)
        assert all(list(numbers) == sorted(numbers) for numbers in assignment.values())


@given(cases(), st.sampled_from(sorted(ASSIGNORS)))
def test_every_partition_goes_to_one_subscriber(case: tuple[list[Subscriber], Topics], assignor: str) -> None:
    subscribers, topics = case
    targets = ASSIGNORS[assignor](subscribers, topics)
    check(subscribers, topics, targets)
    assert targets == ASSIGNORS[assignor](subscribers[::-1], topics), "the order of members must not matter"


@given(cases())
def test_uniform_is_even_and_moves_nothing_without_need(case: tuple[list[Subscriber], Topics]) -> None:
    subscribers, topics = case
    targets = assign_uniform(subscribers, topics)
    loads = {member_id: len(pairs(assignment)) for member_id, assignment in targets.items()}
    for subscriber in subscribers:
        for other in subscribers:
            movable = [
                partition
                for partition in pairs(targets[subscriber.id])
                if any(topics[name][0] == partition[0] for name in other.names & topics.keys())
            ]
            assert not movable or loads[subscriber.id] <= loads[other.id] + 1
    settled = [Subscriber(s.id, s.instance_id, s.names, targets[s.id]) for s in subscribers]
    assert assign_uniform(settled, topics) == targets, "made again from itself, it stays"


def test_uniform_moves_only_what_a_new_member_needs() -> None:
    names = frozenset("t")
    topics: Topics = {"t": ("t", 9)}
    two = [Subscriber("a", None, names, {"t": (0, 2, 4, 6, 8)}), Subscriber("b", None, names, {"t": (1, 3, 5, 7)})]
    targets = assign_uniform([*two, Subscriber("c", None, names, {})], topics)
    assert targets == {"a": {"t": (0, 2, 4)}, "b": {"t": (1, 3, 5)}, "c": {"t": (6, 7, 8)}}


def test_range_gives_runs_and_the_same_numbers_of_topics_of_the_same_size() -> None:
    names = frozenset(("t", "u"))
    topics: Topics = {"t": ("t", 5), "u": ("u", 5)}
    members = [Subscriber(member_id, None, names, {}) for member_id in ("b", "a")]
    assert assign_range(members, topics) == {
        "a": {"t": (0, 1, 2), "u": (0, 1, 2)},
        "b": {"t": (3, 4), "u": (3, 4)},
    }


def test_range_orders_static_members_by_instance() -> None:
    names = frozenset("t")
    members = [Subscriber("zz", "i1", names, {}), Subscriber("aa", "i2", names, {}), Subscriber("a", None, names, {})]
    targets = assign_range(members, {"t": ("t", 3)})
    assert targets == {"zz": {"t": (0,)}, "aa": {"t": (1,)}, "a": {"t": (2,)}}
