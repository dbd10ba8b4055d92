"""`/metrics` in Prometheus's text format: well formed, each family once, and the numbers are what happened."""

import re

import pytest

from raftbroker.http import ProcessUsage
from raftbroker.http.metrics import Histogram, TextWriter
from tests.http.harness import JSON_V2, Client, LoopThread, door
from tests.http.stand_in import StandIn

SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')


def scrape(client: Client) -> dict[str, float]:
    """Samples by name and labels, once the text is known to be well formed."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, float] = {}
    families: set[str] = set()
    current = ""
    for line in answer.body.decode().splitlines():
        if line.startswith("# "):
            _, word, name, *_ = line.split(" ", 3)
            if word == "HELP":
                assert name not in families
                families.add(name)
                current = name
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] in (current, f"{current}_bucket", f"{current}_sum", f"{current}_count")
        key = f"{found[1]}{{{found[2]}}}" if found[2] else found[1]
        assert key not in samples
        samples[key] = float(found[3])
    return samples


def test_what_happened_is_counted(thread: LoopThread, broker: StandIn) -> None:
    with door(thread, broker, process_usage=lambda: ProcessUsage(1.5, 1000, 7)) as client:
        client.post("/topics/orders", {"records": [{"value": n} for n in range(5)]}, JSON_V2)
        client.post("/topics/nowhere", {"records": [{"value": 1}]}, JSON_V2)
        client.get("/no/such/place/" + "x" * 50)
        client.get("/topics/orders/partitions/1/records?offset=0&timeout=0")
        samples = scrape(client)
    requests = "raftbroker_http_requests_total"
    assert samples[f'{requests}{{method="POST",route="/topics/{{topic_name}}",status="200"}}'] == 1
    assert samples[f'{requests}{{method="POST",route="/topics/{{topic_name}}",status="404"}}'] == 1
    assert samples[f'{requests}{{method="(any)",route="(none)",status="404"}}'] == 1
    assert samples["raftbroker_http_records_in_total"] == 5
    assert samples["raftbroker_http_records_out_total"] == 5
    assert samples["raftbroker_http_request_bytes_total"] > 50
    assert samples['raftbroker_http_request_duration_seconds_count{route="/topics/{topic_name}"}'] == 2
    assert samples['raftbroker_raft_term{group="1"}'] == 2
    assert samples['raftbroker_partition_bytes{topic="odd\\"name",partition="0"}'] == 1000
    assert samples["process_cpu_seconds_total"] == 1.5
    assert samples["process_resident_memory_bytes"] == 1000
    assert samples["raftbroker_ready"] == 1


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0011, 0.7, 29.0, 1000.0])
def test_a_histogram_counts_up_to_each_bound(seconds: float) -> None:
    histogram, writer = Histogram(), TextWriter()
    histogram.observe(seconds)
    histogram.write(writer, "h", ())
    for line in writer.text().decode().splitlines():
        if "_bucket" in line:
            bound = float(line.split('"')[1])
            assert int(line.split()[-1]) == int(seconds <= bound)
