"""The lists of the suites, how a run is judged by them, and the page that tells of both."""

from tests.kafka.suites import Suite, known, outcomes, verdict
from tests.kafka.suites.page import PAGE, derived

REPORT = b"""<testsuites><testsuite>
<testcase file="a.py" name="good"/>
<testcase file="a.py" name="bad[1]"><failure/></testcase>
<testcase file="a.py" name="broken"><error/></testcase>
<testcase file="a.py" name="left"><skipped/></testcase>
<testcase file="a.py" name="ended badly"/>
<testcase file="a.py" name="ended badly"><error/></testcase>
</testsuite></testsuites>"""


def suite(passes: set[str], fails: set[str]) -> Suite:
    return Suite("s", "a project", "tests", {}, "nothing", {}, {}, frozenset(passes), dict.fromkeys(fails, "why"))


def test_a_report_is_read() -> None:
    assert outcomes(REPORT) == {
        "a.py::good": "passed",
        "a.py::bad[1]": "failed",
        "a.py::broken": "failed",
        "a.py::left": "skipped",
        "a.py::ended badly": "failed",
    }


def test_a_run_as_it_was_is_accepted() -> None:
    assert verdict(suite({"good"}, {"bad", "left"}), {"good": "passed", "bad": "failed", "left": "skipped"}) == []


def test_whatever_is_not_as_it_was_is_told() -> None:
    said = verdict(
        suite({"good", "gone", "worse"}, {"better"}),
        {"good": "passed", "worse": "failed", "better": "passed", "new": "failed"},
    )
    assert said == [
        "gone: not run, and has passed before",
        "worse: failed, and has passed before",
        "better: passes now; move it to `passes`",
        "new: failed, and is not listed",
    ]


def test_the_page_is_what_the_handlers_and_the_lists_say() -> None:
    assert {one.name for one in known()} == {"kafka-python", "confluent-kafka-python"}
    assert PAGE.read_text(encoding="utf-8") == derived(), "run python -m tests.kafka.suites.page --write"
