"""Which test finds which planted bug, and after how long it was shown."""

from pathlib import Path

import msgspec
import pytest

from jepsen import plants
from jepsen.apart import first_shown
from jepsen.faults import FAULTS, chosen
from jepsen.plants import PLANTS, PROOFS
from jepsen.workloads import WORKLOADS


def test_every_bug_of_a_cluster_has_its_test() -> None:
    assert PLANTS.keys() <= PROOFS.keys() <= set(plants.names())


@pytest.mark.parametrize("plant", PROOFS)
def test_the_test_of_a_bug_can_be_had(plant: str) -> None:
    proof = PROOFS[plant]
    assert proof.workload in WORKLOADS
    assert chosen(proof.faults.split(",")).keys() <= FAULTS.keys()


@pytest.mark.parametrize("plant", plants.names())
def test_a_bug_replaces_what_there_is(plant: str) -> None:
    """A method of another name would be replaced in vain."""
    replacements = PLANTS[plant]() if plant in PLANTS else plants.simulated(plant)
    assert replacements
    for owner, name, _ in replacements:
        assert hasattr(owner, name)


def write_run(folder: Path, bad: list[str], anomalies: dict[str, object]) -> None:
    lines = [f"{{:index {index}, :time {index * 1_000_000_000}, :type :info}}\n" for index in range(20)]
    (folder / "history.edn").write_text("".join(lines))
    results = {"valid": False, "bad": bad, "anomalies": anomalies, "unknown": [], "problems": {}, "skipped": {}}
    availability = {"ok_share": None, "ok_share_quiet": None, "faults": [], "by_kind": []}
    results |= {"operations": {}, "availability": availability}
    (folder / "results.json").write_bytes(msgspec.json.encode(results))


def test_an_anomaly_is_shown_when_the_last_line_of_its_example_is_written(tmp_path: Path) -> None:
    first = {"key": 1, "ops": [{"index": 4, "invoked": 3}, {"index": 12, "invoked": 11}]}
    second = {"key": 1, "op": {"index": 9}, "other": [{"index": 5}]}
    write_run(tmp_path, ["G0", "duplicate"], {"G0": [first], "duplicate": [second], "int-send-skip": [{"index": 1}]})
    assert first_shown(tmp_path) == 9.0


def test_what_is_missed_is_known_in_the_end_only(tmp_path: Path) -> None:
    write_run(tmp_path, ["unseen"], {"unseen": [{"writer": {"index": 2}}]})
    assert first_shown(tmp_path) is None
