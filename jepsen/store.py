"""Where runs are kept: `jepsen/store/TEST/TIME/`, each with what was recorded, judged and drawn. Not in version
control."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

STORE = Path(__file__).parent / "store"
HISTORY, RESULTS, TEST = "history.edn", "results.json", "test.json"
VERDICTS = {True: "valid", False: "anomalies", None: "unknown"}


def new_run(test: str, store: Path = STORE) -> Path:
    """A fresh folder for a run of this test."""
    while True:
        folder = store / test / time.strftime("%Y%m%dT%H%M%S")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.2)
        else:
            break
    ignore = store / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")


def read_json(path: Path) -> dict[str, object]:
    """A file of a run; empty where it has none, or none that can be read."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def runs(store: Path = STORE) -> Iterator[Path]:
    """Every run's folder, the newest first."""
    folders = [path.parent for path in store.glob(f"*/*/{TEST}")]
    yield from sorted(folders, key=lambda folder: (folder.name, folder.parent.name), reverse=True)
