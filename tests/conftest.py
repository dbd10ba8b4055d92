"""What all tests share: Hypothesis gives no example a time of its own, which a busy machine would not keep."""

from typing import cast

import msgspec
import pytest
from hypothesis import settings

from raftbroker.state.configs import DEFINITIONS, ConfigDefinition

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture
def compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics may be compacted, whether or not `configs.COMPACTION` says so."""
    definitions = cast(dict[str, ConfigDefinition], DEFINITIONS)
    taken = msgspec.structs.replace(definitions["cleanup.policy"], refused={})
    monkeypatch.setitem(definitions, taken.name, taken)
