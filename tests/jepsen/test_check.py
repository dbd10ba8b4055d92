"""`python -m jepsen check`: exit statuses, the JSON that is promised, what test.json says, the report for people."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from jepsen.__main__ import app
from jepsen.check import check
from jepsen.checkers import WORKLOADS, judge
from jepsen.checkers.verdict import EXAMPLES_MAX, NotJudgeable, Rules
from tests.jepsen.judging import HISTORIES, history_of


def outcome(
    capsys: pytest.CaptureFixture[str],
    path: Path,
    *,
    workload: str | None = None,
    sub_via: str | None = None,
    jepsen_rules: bool = False,
) -> tuple[int, dict[str, object], str]:
    """Exit status, the JSON, and what was said on standard error."""
    status = check(path, workload, sub_via, jepsen_rules=jepsen_rules, as_json=True)
    said = capsys.readouterr()
    return status, msgspec.json.decode(said.out), said.err


@pytest.fixture
def in_a_run(tmp_path: Path):  # type: ignore[no-untyped-def] # a function that pytest gives
    """Copies a history into a run's folder, beside a test.json."""

    def copied(name: str, test: str) -> Path:
        history = tmp_path / "history.edn"
        history.write_bytes((HISTORIES / f"{name}.edn").read_bytes())
        (tmp_path / "test.json").write_text(test)
        return history

    return copied


def test_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jepsen", "check", str(HISTORIES / "G0-realtime.edn"), "--json", "--jepsen-rules"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0
    told = msgspec.json.decode(done.stdout)
    assert list(told) == ["valid", "anomalies", "bad", "allowed"]
    assert (told["valid"], told["bad"], told["allowed"]) == (True, [], ["G0-realtime"])
    (example,) = told["anomalies"]["G0-realtime"]
    assert [step["type"] for step in example["steps"]] == ["ww", "realtime"]


def test_a_generated_history_is_valid_and_the_same_for_the_same_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [tmp_path / "one.edn", tmp_path / "other.edn"]
    for path in made:
        result = CliRunner().invoke(app, ["generate", str(path), "--operations", "300", "--seed", "5"])
        assert result.exit_code == 0, result.output
    assert made[0].read_bytes() == made[1].read_bytes()
    assert outcome(capsys, made[0])[:2] == (0, {"valid": True, "anomalies": {}, "bad": [], "allowed": []})


def test_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    valid = {"valid": True, "anomalies": {}, "bad": [], "allowed": []}
    assert outcome(capsys, HISTORIES / "valid.edn") == (0, valid, "")
    status, told, errors = outcome(capsys, HISTORIES / "duplicate.edn")
    assert (status, told["valid"], told["bad"], errors) == (1, False, ["duplicate"], "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing to judge"),
        ("{:type :invoke :process 0 :f :poll :value [[:poll]]}", "nothing to judge"),
        ("{:type :ok :process 0 :f :send :value [[:send 0 [1 1]]", "bad.edn:1:1: the file ends"),
        ("{:type :ok :process 0 :f :send :value {:queue 1}}", "holds no micro-operations"),
    ],
)
def test_could_not_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str) -> None:
    path = tmp_path / "bad.edn"
    path.write_text(text)
    status, told, errors = outcome(capsys, path)
    assert (status, told) == (2, {"valid": False, "anomalies": {}, "bad": [], "allowed": []})
    assert why in errors
    assert str(path) in errors


def test_a_missing_file_could_not_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = outcome(capsys, tmp_path / "none.edn")
    assert status == 2
    assert "cannot read" in errors


def test_the_workload_stands_in_test_json(in_a_run, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def] # see the fixture
    path = in_a_run("queue-lost-message", '{"workload": "queue", "seed": 7}')
    assert outcome(capsys, path)[1]["bad"] == ["lost-message"]
    assert outcome(capsys, path, workload="log")[0] == 2


def test_how_consumers_got_their_keys_stands_in_test_json(in_a_run, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def] # see the fixture
    path = in_a_run("poll-skip-subscribe", '{"sub_via": "subscribe"}')
    assert outcome(capsys, path)[1]["allowed"] == ["poll-skip"]
    assert outcome(capsys, path, sub_via="assign")[1]["bad"] == ["poll-skip"]


@pytest.mark.parametrize("test", ["{", '{"workload": "dance"}', '{"sub_via": "telepathy"}', '{"workload": 7}'])
def test_a_bad_test_json_is_no_verdict(in_a_run, capsys: pytest.CaptureFixture[str], test: str) -> None:  # type: ignore[no-untyped-def] # see the fixture
    status, told, errors = outcome(capsys, in_a_run("valid", test))
    assert (status, told["valid"]) == (2, False)
    assert "could not tell" in errors


def test_the_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    status = check(HISTORIES / "lost-write.edn", None, None, jepsen_rules=False, as_json=False)
    said = capsys.readouterr().out
    assert status == 1
    for part in (
        "4 operations",
        "lost-write: 2, bad",
        "int-send-skip: 1, allowed",
        "not valid",
        ":send [[:send 0 [0 1]]]",
    ):
        assert part in said


def test_a_run_without_a_word_about_faults_is_judged_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(HISTORIES / "valid.edn", None, None, jepsen_rules=False, as_json=False) == 0
    assert "2 lines of faults" in capsys.readouterr().out


def test_of_many_examples_the_first_are_kept_and_all_counted() -> None:
    lines = [f"{{:type :ok :process {n} :f :send :value [[:send 0 [{n} {n}]]]}}" for n in range(100)]
    verdict = judge(history_of("\n".join(lines)), "log", Rules())
    assert verdict.counts["unseen"] == 100
    assert len(verdict.anomalies["unseen"]) == EXAMPLES_MAX


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_a_history_without_the_workload_is_not_judged(workload: str) -> None:
    with pytest.raises(NotJudgeable, match="nothing to judge"):
        judge(history_of("{:type :ok :process 0 :f :dance :value nil}"), workload, Rules())


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        ("log", "{:type :ok :process 0 :f :poll :value 7}"),
        (
            "log",
            "{:f :poll :type :ok :process 0 :value [[:poll {}]]}\n{:f :final-read :type :ok :process 0 :value [1]}",
        ),
        (
            "groups",
            '{:f :commit :type :ok :process 0 :group "g" :value [1]}\n{:f :poll :type :ok :process 0 :value []}',
        ),
        (
            "groups",
            '{:f :commit :type :ok :process 0 :group "g" :value {0 a}}\n{:f :poll :type :ok :process 0 :value []}',
        ),
        ("register", "{:f :write :type :ok :process 0 :value 7}"),
        ("register", "{:f :cas :type :ok :process 0 :value [x 7]}"),
        ("churn", "{:f :create :type :ok :process 0 :value a}\n{:f :list :type :ok :process 0 :value 7}"),
        ("churn", "{:f :create :type :ok :process 0 :value a}\n{:f :exists :type :ok :process 0 :value 7}"),
    ],
)
def test_a_malformed_value_is_named_with_its_operation(workload: str, text: str) -> None:
    with pytest.raises(NotJudgeable, match=r":index \d"):
        judge(history_of(text), workload, Rules())
