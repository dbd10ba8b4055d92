"""A run as a page to look through: a lane for each worker's process, a bar for each operation, the faults beside them.

One HTML file that needs nothing else. Long runs show their first `OPERATIONS_MAX` operations and those around what
was found.
"""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from jepsen.history import NEVER, History, HistoryError, Op, load
from jepsen.recorder import FaultSpan

OPERATIONS_MAX = 8000
PIXELS_PER_SECOND = 90
LANE_PIXELS = 150
VALUE_CHARACTERS = 300

STYLE = """
body { font: 12px system-ui, sans-serif; margin: 0 12px; }
#time { position: relative; }
.op { position: absolute; overflow: hidden; border-radius: 2px; padding: 0 2px; font-size: 10px; min-height: 3px;
      box-sizing: border-box; border: 1px solid #fff; }
.op:hover { overflow: visible; z-index: 2; min-width: 500px; height: auto !important; }
.ok { background: #b7e1b9; } .info { background: #ffdf9e; } .fail { background: #f5b7b1; }
.fault { position: absolute; left: 0; right: 0; background: #90caf9; opacity: 0.3; }
.name { position: absolute; left: 0; color: #0d47a1; font-weight: bold; z-index: 1; }
.second { position: absolute; left: 0; color: #888; }
"""


def draw(folder: Path, history: Path, faults: Sequence[FaultSpan], concurrency: int) -> str | None:
    """Writes timeline.html; or says why there is none."""
    try:
        read = load(history)
    except HistoryError as error:
        return str(error)
    (folder / "timeline.html").write_text("".join(_page(read, faults, concurrency)), encoding="utf-8")
    return None


def _page(history: History, faults: Sequence[FaultSpan], concurrency: int) -> Iterator[str]:
    ops = history.ops[:OPERATIONS_MAX]
    last = max((op.time for op in ops), default=0) / 1e9
    yield f"<!doctype html><meta charset=utf-8><title>timeline</title><style>{STYLE}</style>"
    left_out = len(history.ops) - len(ops)
    yield f"<h1>{html.escape(history.source)}</h1><p>Seconds go down, workers across; hover for the whole operation."
    yield f" {left_out} later operations are left out.</p>" if left_out else "</p>"
    yield f'<div id=time style="height:{last * PIXELS_PER_SECOND + 60:.0f}px">'
    for second in range(int(last) + 1):
        yield f'<div class=second style="top:{second * PIXELS_PER_SECOND}px">{second} s</div>'
    for fault in faults:
        if fault.began <= last:
            ended = min(last, fault.ended if fault.ended is not None else last)
            top, height = fault.began * PIXELS_PER_SECOND, max(2.0, (ended - fault.began) * PIXELS_PER_SECOND)
            yield f'<div class=fault style="top:{top:.0f}px;height:{height:.0f}px"></div>'
            text = html.escape(f"{fault.name} {fault.detail}"[:VALUE_CHARACTERS])
            yield f'<div class=name style="top:{top + 12:.0f}px">{text}</div>'
    for op in ops:
        yield _bar(op, concurrency)
    yield "</div>"


def _bar(op: Op, concurrency: int) -> str:
    top = op.invoke_time / 1e9 * PIXELS_PER_SECOND
    height = max(12.0, (op.time - op.invoke_time) / 1e9 * PIXELS_PER_SECOND)
    left = 60 + op.process % concurrency * LANE_PIXELS
    said = op.sends or op.reads or op.value
    ended = "never" if op.ended == NEVER else op.ended
    error = op.extra.get("error", "")
    text = html.escape(f"{op.process} {op.f} {said} {error} [{op.invoked}-{ended}]"[:VALUE_CHARACTERS])
    style = f"left:{left}px;top:{top:.0f}px;width:{LANE_PIXELS - 4}px;height:{height:.0f}px"
    return f'<div class="op {op.type}" style="{style}">{text}</div>'
