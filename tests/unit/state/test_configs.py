"""Topic configs: names, types, bounds, refusals, the typed view."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftbroker.state.configs import (
    DEFINITIONS,
    ConfigType,
    InvalidConfig,
    compacted,
    topic_config,
    validate,
    validate_all,
)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_default_is_valid_as_it_is_written(name: str) -> None:
    definition = DEFINITIONS[name]
    assert validate(name, definition.default) == definition.default
    assert definition.documentation.endswith(".")
    assert definition.effective != ("changes nothing" in definition.documentation)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("retention.ms", " 060000 ", "60000"),
        ("retention.ms", "-1", "-1"),
        ("retention.bytes", "9223372036854775807", "9223372036854775807"),
        ("cleanup.policy", "delete", "delete"),
        ("cleanup.policy", "delete, delete", "delete"),
        ("message.timestamp.type", "LogAppendTime", "LogAppendTime"),
        ("min.insync.replicas", "5", "5"),
        ("preallocate", "TRUE", "true"),
        ("min.cleanable.dirty.ratio", "0.50", "0.5"),
        ("segment.bytes", "1048576", "1048576"),
        ("unclean.leader.election.enable", "False", "false"),
    ],
)
def test_accepted(name: str, value: str, stored: str) -> None:
    assert validate(name, value) == stored


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("retention.ms", "-2", "out of bounds: -1 to 9223372036854775807"),
        ("retention.ms", "a week", "not a whole number"),
        ("retention.ms", "1.5", "not a whole number"),
        ("retention.ms", "", "not a whole number"),
        ("retention.ms", "9223372036854775808", "out of bounds"),
        ("retention.ms", "1" * 5000, "not a whole number"),
        ("retention.ms", "\u0661", "not a whole number"),
        ("max.message.bytes", "2147483648", "out of bounds"),
        ("cleanup.policy", "shred", "not one of delete"),
        ("cleanup.policy", "", "not one of delete"),
        ("compression.type", "zstd", "exactly as sent"),
        ("compression.type", "zip", "not one of producer"),
        ("min.insync.replicas", "0", "out of bounds: 1 to 5"),
        ("min.insync.replicas", "6", "out of bounds: 1 to 5"),
        ("min.cleanable.dirty.ratio", "nan", "out of bounds"),
        ("min.cleanable.dirty.ratio", "half", "not a number"),
        ("message.timestamp.type", "createtime", "not one of CreateTime, LogAppendTime"),
        ("preallocate", "yes", "neither true nor false"),
        ("unclean.leader.election.enable", "true", "acknowledged record"),
        ("remote.storage.enable", "true", "not implemented"),
        ("retention", "1", "did you mean"),
        ("retention_ms", "1", "did you mean retention.ms"),
        ("Retention.MS", "1", "did you mean retention.ms"),
        ("", "1", "the topic configs are cleanup.policy, "),
    ],
)
def test_refused_with_a_reason(name: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        validate(name, value)
    assert reason in caught.value.reason
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: ")


@given(st.sampled_from(list(DEFINITIONS)) | st.text(max_size=20), st.text(max_size=30))
def test_any_value_is_stored_in_one_spelling_or_refused(name: str, value: str) -> None:
    try:
        stored = validate(name, value)
    except InvalidConfig:
        return
    assert validate(name, stored) == stored


def test_a_whole_map() -> None:
    assert list(validate_all({"retention.ms": "1", "cleanup.policy": "delete"})) == ["cleanup.policy", "retention.ms"]
    with pytest.raises(InvalidConfig, match=r"nope: there is no such topic config"):
        validate_all({"retention.ms": "1", "nope": "1"})


def test_typed_view_takes_the_topics_own_then_the_brokers_then_kafkas() -> None:
    config = topic_config({"retention.ms": "5", "future.config": "x"}, {"retention.ms": "6", "retention.bytes": "7"})
    assert (config.retention_ms, config.retention_bytes, config.max_message_bytes) == (5, 7, 1_048_588)
    assert (config.cleanup_policy, config.compression_type, config.log_append_time) == ("delete", "producer", False)
    assert topic_config({"message.timestamp.type": "LogAppendTime"}).log_append_time
    assert topic_config({}).retention_ms == 7 * 24 * 3600 * 1000


def test_what_tunes_compaction_is_typed_as_kafka_types_it() -> None:
    assert [
        (name, DEFINITIONS[name].type, DEFINITIONS[name].default)
        for name in ("cleanup.policy", "delete.retention.ms", "min.cleanable.dirty.ratio", "min.compaction.lag.ms")
    ] == [
        ("cleanup.policy", ConfigType.LIST, "delete"),
        ("delete.retention.ms", ConfigType.LONG, "86400000"),
        ("min.cleanable.dirty.ratio", ConfigType.DOUBLE, "0.5"),
        ("min.compaction.lag.ms", ConfigType.LONG, "0"),
    ]
    config = topic_config({"min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "7"})
    assert (config.min_cleanable_dirty_ratio, config.min_compaction_lag_ms) == (0.01, 7)
    assert config.delete_retention_ms == 86_400_000


@pytest.mark.parametrize(
    ("policy", "compacts", "deletes"),
    [("delete", False, True), ("compact", True, False), ("compact,delete", True, True), ("delete,compact", True, True)],
)
def test_cleanup_policies(policy: str, compacts: bool, deletes: bool) -> None:
    assert validate("cleanup.policy", policy.replace(",", " , ")) == policy
    config = topic_config({"cleanup.policy": policy})
    assert (config.compacted, compacted(policy), config.deletes) == (compacts, compacts, deletes)
