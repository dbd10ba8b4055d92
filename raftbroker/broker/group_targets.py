"""The targets of a KIP-848 group: the topics that its members subscribe to, dealt out by its assignor."""

from collections.abc import Callable

from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.group_patterns import topic_pattern
from raftbroker.state.control import ControlMachine
from raftbroker.state.groups.assignors import ASSIGNORS, Subscriber
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.ops import SetTargets
from raftbroker.state.groups.rows import Topics
from raftbroker.state.groups.terms import DEFAULT_ASSIGNOR


class TopicFinder:
    """Names that a pattern matches in the control state, found once for each of its versions."""

    def __init__(self, control: ControlMachine) -> None:
        self._control = control
        self._version = -1
        self._patterns: dict[str, Callable[[str], bool]] = {}
        self._found: dict[str, frozenset[str]] = {}

    def matching(self, pattern: str) -> frozenset[str]:
        if self._control.version != self._version:
            self._version = self._control.version
            self._patterns = {pattern: match for pattern, match in self._patterns.items() if pattern in self._found}
            self._found.clear()
        found = self._found.get(pattern)
        if found is None:
            match = self._patterns.get(pattern)
            if match is None:
                match = self._patterns[pattern] = topic_pattern(pattern)
            found = frozenset(topic.name for topic in self._control.topics() if match(topic.name))
            self._found[pattern] = found
        return found


def make_targets(name: str, group: ConsumerGroup, finder: TopicFinder, control: ControlMachine) -> SetTargets | None:
    """What brings the group's targets up to its members and to the topics that there are; None where they are."""
    subscriptions = {
        member.id: frozenset(member.names) | _matched(member.regex, finder) for member in group.members.values()
    }
    topics: Topics = {}
    for topic_name in sorted(frozenset().union(*subscriptions.values())):
        topic = control.topic(topic_name)
        if topic is not None:
            topics[topic_name] = (topic.topic_id, len(topic.partitions))
    stale = group.row.epoch > group.row.target_epoch
    if not group.members or (not stale and topics == group.topics):
        return None
    subscribers = [
        Subscriber(member.id, member.instance_id, subscriptions[member.id], group.targets.get(member.id, {}))
        for member in group.members.values()
    ]
    assign = ASSIGNORS.get(group.assignor, ASSIGNORS[DEFAULT_ASSIGNOR])
    targets = {
        member_id: target
        for member_id, target in assign(subscribers, topics).items()
        if target != group.targets.get(member_id, {})
    }
    return SetTargets(name, group.row.epoch, not stale, topics, targets)


def _matched(pattern: str, finder: TopicFinder) -> frozenset[str]:
    if not pattern:
        return frozenset()
    try:
        return finder.matching(pattern)
    except InvalidRequest:  # another version's node took it
        return frozenset()
