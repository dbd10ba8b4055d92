"""What other people's integration suites say of a running cluster, beside what they said before.

    python -m tests.kafka.suites --suite kafka-python --path DIR [--bootstrap HOST:PORT] [--python ITS_PYTHON]

DIR is a checkout of the suite's project outside of this one; ITS_PYTHON has what it needs installed, pytest-timeout
included. Without HOST:PORT a cluster of three nodes is started for it, with the settings that the suite wants. What
passed so far is in `NAME.toml` here: that list only grows. A test of it that does not pass, or one that is not known,
ends the run with 1.
"""

import subprocess
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    name: str
    project: str
    """Whose suite it is, and at which version it was run."""
    tests: str
    """The folder of the tests in the project."""
    environment: Mapping[str, str]
    """What points it at a cluster; {bootstrap} stands for host:port."""
    cluster: str
    """What the cluster needs, in words."""
    settings: Mapping[str, str]
    """The same as environment variables of the nodes."""
    left_out: Mapping[str, str]
    """Folder or file -> why it is not run at all."""
    passes: frozenset[str]
    fails: Mapping[str, str]
    """Test -> why it does not pass, or is skipped."""


def known() -> list[Suite]:
    return [_read(path) for path in sorted(HERE.glob("*.toml"))]


def _read(path: Path) -> Suite:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    fails = {test: entry["why"] for entry in table["fails"] for test in entry["tests"]}
    passes = frozenset(table.pop("passes"))
    assert not passes & fails.keys(), f"{path.name} lists a test as both"
    return Suite(path.stem, **{**table, "passes": passes, "fails": fails})


def run(suite: Suite, path: Path, bootstrap: str, python: str, seconds: int) -> dict[str, str]:
    """Test -> passed, failed or skipped; `seconds` is for one test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", suite.tests, "-q", "--tb=short", "-p", "no:cacheprovider"]
        command += [f"--timeout={seconds}", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command += [f"--ignore={left_out}" for left_out in suite.left_out]
        settings = [f"{key}={value.format(bootstrap=bootstrap)}" for key, value in suite.environment.items()]
        subprocess.run(["env", *settings, *command], cwd=path, check=False)
        return outcomes(report.read_bytes())


def outcomes(report: bytes) -> dict[str, str]:
    """Of a JUnit report; a test with an error counts as failed."""
    found: dict[str, str] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        told = {child.tag for child in case}
        outcome = "failed" if told & {"failure", "error"} else "skipped" if "skipped" in told else "passed"
        name = f"{case.get('file')}::{case.get('name')}"
        found[name] = "failed" if found.get(name) == "failed" else outcome
    return found


def verdict(suite: Suite, found: Mapping[str, str]) -> list[str]:
    """What is not as it was: a sentence each."""
    said = [
        f"{test}: {found.get(test, 'not run')}, and has passed before"
        for test in sorted(suite.passes)
        if found.get(test) != "passed"
    ]
    for test, outcome in sorted(found.items()):
        if test in suite.fails and outcome == "passed":
            said.append(f"{test}: passes now; move it to `passes`")
        elif test not in suite.passes and test not in suite.fails:
            said.append(f"{test}: {outcome}, and is not listed")
    return said
