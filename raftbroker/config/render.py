"""A configuration as a commented TOML document. Pure; a secret never appears in what it returns."""

import json
import textwrap
from collections.abc import Mapping

from raftbroker.config.keys import KEYS, SECTIONS, KeyInfo
from raftbroker.config.values import Secret, Value


def render(values: Mapping[str, Value], origins: Mapping[str, str] | None = None) -> str:
    """A TOML document of all keys, each with its comment. Secrets are left out; `origins` tells of set values."""
    lines: list[str] = []
    for section, comment in SECTIONS.items():
        lines += ["", f"# {comment}", f"[{section}]"]
        for name, info in KEYS.items():
            if info.section == section:
                lines += ["", *_render_key(info, values.get(name, info.default), (origins or {}).get(name))]
    return "\n".join(lines).lstrip() + "\n"


def _render_key(info: KeyInfo, value: Value, origin: str | None) -> list[str]:
    comment = info.key.comment + (f" Takes {info.bounds}." if info.bounds else "")
    lines = textwrap.wrap(comment, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    lines.append(f"# Environment: {info.environment}" + (f". Set by: {origin}" if origin else ""))
    if isinstance(value, Secret) and value:
        return [*lines, f"# {info.name} is set and not shown"]
    return [*lines, f"{info.name} = {to_toml(value)}"]


def to_toml(value: Value) -> str:
    """A value as TOML; a Secret as the empty string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(to_toml(item) for item in value) + "]"
    if isinstance(value, Secret):
        return '""'
    return json.dumps(str(value), ensure_ascii=False)
