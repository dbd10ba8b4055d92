"""Where values come from: the file, the environment, `--set`; each converted to its key's type and bounds.

Reads the one file it is pointed to. Promises that every value it returns has its key's type and is inside its
bounds, or one ConfigError that lists everything that is wrong.
"""

import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from raftbroker.config.keys import KEYS, SECTIONS, KeyInfo
from raftbroker.config.values import ENVIRONMENT_PREFIX, ConfigError, Key, Secret, Value


class Settings(msgspec.Struct, frozen=True):
    """Values by full name, before they are checked against each other, and where each came from."""

    values: dict[str, Value]
    origins: dict[str, str]

    def where(self, name: str) -> str:
        """The key, and where its value came from unless that is the default."""
        origin = self.origins.get(name)
        return f"{name} ({origin})" if origin else name


def read_settings(path: Path | None, sets: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """All values with their types and bounds checked. Raises ConfigError."""
    problems: list[str] = []
    values: dict[str, Value] = {name: info.default for name, info in KEYS.items()}
    origins: dict[str, str] = {}
    raw = [*_from_file(path, problems), *_from_environment(environ), *_from_sets(sets, problems)]
    for name, value, origin in raw:
        info = KEYS.get(name)
        if info is None:
            problems.append(_unknown(name, origin))
            continue
        try:
            values[name] = _convert(info, value)
            origins[name] = origin
        except ValueError as error:
            problems.append(f"{name} ({origin}): {error}")
    if problems:
        raise ConfigError(problems)
    return Settings(values, origins)


def _from_file(path: Path | None, problems: list[str]) -> list[tuple[str, object, str]]:
    if path is None:
        return []
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            [f"cannot read the configuration {path}: {error.strerror}; `raftbroker config template` writes a new one"]
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}; strings need quotes, lists need brackets"]) from error
    found: list[tuple[str, object, str]] = []
    for section, content in document.items():
        if not isinstance(content, dict):
            problems.append(f"{section} ({path}): keys stand in sections; write it below a [section] line")
        elif section not in SECTIONS:
            problems.append(f"[{section}] ({path}): there is no such section{_near(section, SECTIONS)}")
        else:
            found += [(f"{section}.{name}", value, str(path)) for name, value in content.items()]
    return found


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, object, str]]:
    return [
        (variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".", 1), text, f"environment {variable}")
        for variable, text in sorted(environ.items())
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable
    ]


def _from_sets(sets: Sequence[str], problems: list[str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for item in sets:
        name, equals, text = item.partition("=")
        if equals:
            found.append((name.strip(), text, "--set"))
        else:
            problems.append(f"--set {name}: must be section.key=value, for instance --set node.id=2")
    return found


def _near(word: str, known: typing.Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    if matches:
        return "; did you mean " + " or ".join(matches) + "?"
    return "; `raftbroker config template` lists them all"


def _unknown(name: str, origin: str) -> str:
    same_section = [key for key in KEYS if key.partition(".")[0] == name.partition(".")[0]]
    return f"{name} ({origin}): there is no such key{_near(name, same_section or KEYS)}"


def _convert(info: KeyInfo, value: object) -> Value:
    """The value as the key's type; text is what the environment and --set give. Raises ValueError."""
    match info.kind:
        case "integer":
            return _convert_integer(info.key, value)
        case "boolean":
            words: dict[object, bool] = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            word = value.lower() if isinstance(value, str) else None
            if isinstance(value, bool):
                return value
            if word in words:
                return words[word]
            raise ValueError(f"{value!r} is not true or false")
        case "list":
            items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
            if not isinstance(items, list):
                raise ValueError(f'{value!r} is not a list of strings, for instance ["one", "two"]')
            return tuple(_convert_text(info.key, item) for item in items)
        case "path":
            text = _convert_text(info.key, value)
            if not text:
                raise ValueError("must name a directory")
            return Path(text)
        case "secret":
            if not isinstance(value, str):
                raise ValueError("must be a string")
            return Secret(value)
        case _:
            return _convert_text(info.key, value)


def _convert_integer(key: Key, value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value.replace("_", ""))
        except ValueError:
            raise ValueError(f"{value!r} is not a whole number") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    if key.minimum is not None and value < key.minimum:
        raise ValueError(f"{value} is too small; it must be {key.minimum} to {key.maximum}")
    if key.maximum is not None and value > key.maximum:
        raise ValueError(f"{value} is too large; it must be {key.minimum} to {key.maximum}")
    return value


def _convert_text(key: Key, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string; put it in quotes")
    if key.choices and value not in key.choices:
        raise ValueError(f"{value!r} is not one of {', '.join(key.choices)}")
    problem = key.check(value) if key.check else None
    if problem:
        raise ValueError(f"{value!r}: {problem}")
    return value
