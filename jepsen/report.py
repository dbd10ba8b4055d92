"""Pages about runs: all of them in one table, and one for each with its figures, pictures and files. `serve` shows
the same."""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path

from jepsen.store import RESULTS, STORE, TEST, VERDICTS, read_json, runs

PICTURES = ("latency.png", "rate.png", "availability.png", "lag.png")
EXAMPLES_SHOWN = 3

STYLE = """ body { font: 14px system-ui, sans-serif; margin: 1em auto; max-width: 80em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid
#ddd; } .valid { color: #2e7d32; } .anomalies { color: #c62828; } .unknown { color: #b26a00; } .running { color: #666;
} pre { background: #f5f5f5; padding: 6px; overflow-x: auto; } img { max-width: 100%; }
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def verdict_of(results: Mapping[str, object]) -> str:
    if not results:
        return "running"
    valid = results.get("valid")
    return VERDICTS[valid if isinstance(valid, bool) else None]


def page(title: str, body: Iterator[str]) -> str:
    head = f"<!doctype html><meta charset=utf-8><title>{_text(title)}</title><style>{STYLE}</style>"
    return f"{head}<h1>{_text(title)}</h1>" + "".join(body)


def all_runs(store: Path = STORE) -> str:
    """Every run, the newest first; links are relative to the store's folder."""
    return page("Chaos runs", _rows(store))


def _rows(store: Path) -> Iterator[str]:
    yield "<table><tr><th>test<th>time<th>verdict<th>operations<th>ok<th>faults<th>found</tr>"
    for folder in runs(store):
        test, results = read_json(folder / TEST), read_json(folder / RESULTS)
        options = _map(test.get("options"))
        verdict = verdict_of(results)
        counts = [_map(count) for count in _map(results.get("operations")).values()]
        total = sum(int(str(number)) for count in counts for number in count.values())
        share = _map(results.get("availability")).get("ok_share")
        faults = len(_list(_map(results.get("availability")).get("faults")))
        found = [*_list(results.get("bad")), *_map(results.get("problems"))]
        link = f"{folder.parent.name}/{folder.name}/index.html"
        yield (
            f'<tr><td><a href="{_text(link)}">{_text(folder.parent.name)}</a><td>{_text(folder.name)}'
            f'<td class="{verdict}">{verdict}<td>{total:,}<td>{_share(share)}<td>{faults}'
            f"<td>{_text(', '.join(map(str, found)))} {_text(options.get('plant') or '')}</tr>"
        )
    yield "</table>"


def _share(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, float) else "-"


def one_run(folder: Path) -> str:
    """A run's own page; links are relative to its folder."""
    return page(f"{folder.parent.name}, {folder.name}", _sections(folder))


def _sections(folder: Path) -> Iterator[str]:
    test, results = read_json(folder / TEST), read_json(folder / RESULTS)
    verdict = verdict_of(results)
    yield f'<p><b class="{verdict}">{verdict}</b>, commit {_text(test.get("commit"))}</p>'
    for name, examples in _map(results.get("problems")).items():
        yield f"<h3 class=anomalies>{_text(name)}</h3><pre>{_text(chr(10).join(map(str, _list(examples))))}</pre>"
    bad = _list(results.get("bad"))
    for name, examples in _map(results.get("anomalies")).items():
        kind = "anomalies" if name in bad else "unknown"
        shown = "\n".join(map(str, _list(examples)[:EXAMPLES_SHOWN]))
        yield f"<h3 class={kind}>{_text(name)}{'' if name in bad else ' (allowed)'}</h3><pre>{_text(shown)}</pre>"
    for reason in _list(results.get("unknown")):
        yield f"<p>could not tell: {_text(reason)}</p>"
    yield from _availability(_map(results.get("availability")))
    skipped = _map(results.get("skipped"))
    if skipped:
        yield "<h2>Skipped</h2><ul>" + "".join(f"<li>{_text(k)}: {_text(v)}" for k, v in skipped.items()) + "</ul>"
    for picture in PICTURES:
        if (folder / picture).exists():
            yield f'<p><img src="{picture}" alt="{picture}"></p>'
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != "index.html")
    yield "<h2>Files</h2><ul>" + "".join(f'<li><a href="{_text(n)}">{_text(n)}</a>' for n in files) + "</ul>"
    yield f"<h2>Options</h2><pre>{_text(test.get('options'))}</pre>"


def _availability(figures: Mapping[str, object]) -> Iterator[str]:
    rows = [_map(row) for row in _list(figures.get("by_kind"))]
    yield f"<h2>Availability</h2><p>{_share(figures.get('ok_share'))} of operations ended ok,"
    yield f" {_share(figures.get('ok_share_quiet'))} of those begun while nothing was broken.</p>"
    if not rows:
        return
    yield "<table><tr><th>fault<th>times<th>ok<th>every partition takes writes, after its begin<th>after its end<th>"
    yield "not seen</tr>"
    for row in rows:
        begin = _seconds(row.get("writable_after_begin_median"), row.get("writable_after_begin_max"))
        end = _seconds(row.get("writable_after_end_median"), row.get("writable_after_end_max"))
        yield f"<tr><td>{_text(row.get('fault'))}<td>{_text(row.get('times'))}<td>{_share(row.get('ok_share'))}"
        yield f"<td>{begin}<td>{end}<td>{_text(row.get('never'))}</tr>"
    yield "</table>"


def _seconds(median: object, longest: object) -> str:
    return f"{median} s, longest {longest} s" if median is not None else "not while it held"


def write_all(store: Path = STORE) -> Path:
    """`index.html` in the store and in each run's folder."""
    for folder in runs(store):
        (folder / "index.html").write_text(one_run(folder), encoding="utf-8")
    path = store / "index.html"
    store.mkdir(parents=True, exist_ok=True)
    path.write_text(all_runs(store), encoding="utf-8")
    return path
