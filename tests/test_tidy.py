"""House rules as tests: what a reviewer would otherwise have to say again and again.

Each failure says which line breaks which rule and what to do instead. Exceptions stand in the tables below, each
with its reason; one that is no longer needed fails as well, so the tables only say what is true.
"""

import ast
import functools
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = sorted(path for package in ("consensus", "raftbroker") for path in (ROOT / package).rglob("*.py"))
EVERYTHING = sorted(
    path for folder in ("consensus", "raftbroker", "tests", "bench", "jepsen") for path in (ROOT / folder).rglob("*.py")
)

HARNESS = sorted((ROOT / "jepsen").rglob("*.py"))

FILE_LINES_USUAL = 500
FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70

JUDGING = (
    *("jepsen/edn.py", "jepsen/fastlines.py", "jepsen/history.py", "jepsen/microops.py", "jepsen/synthetic.py"),
    "jepsen/checkers/",
)
"""The half of the chaos harness that judges: pure, so that the same history always gets the same verdict."""

LAYERS = ("cli", "node", "http", "kafka", "broker", "state", "storage")
"""Imports inside raftbroker point down this list; `config` stands beside it, for cli and node alone."""
FRONT_DOORS = ("http", "kafka")
"""These stand side by side: neither knows the other."""

ONLY_HERE = {
    "rocksdict": ("raftbroker/storage/",),
    "pysyncobj": ("consensus/pysyncobj_seams.py",),
    "aiohttp": ("raftbroker/http/", "raftbroker/node.py"),
    "typer": ("raftbroker/cli/",),
    "rich": ("raftbroker/cli/",),
    "uvloop": ("raftbroker/cli/server.py",),
    "yarl": ("raftbroker/http/",),
    "cramjam": ("raftbroker/state/",),
    "kafka": ("raftbroker/kafka/",),
}
"""Libraries that only these places may import."""

MAY_TOUCH_THE_WORLD = ("raftbroker/node.py", "raftbroker/cli/")
"""The only places that make clocks, random numbers, sockets, files, threads and processes."""

INSTEAD = {
    "time.time": "take a clock or `wall`, handed in by node.py",
    "time.time_ns": "take `wall`, handed in by node.py",
    "time.monotonic": "take a `Clock`, or the running loop's time()",
    "time.monotonic_ns": "take a `Clock`, or the running loop's time()",
    "time.perf_counter": "take a `Clock`, or the running loop's time()",
    "time.sleep": "await asyncio.sleep: the loop must never wait",
    "datetime.datetime.now": "take `wall`, handed in by node.py",
    "datetime.datetime.utcnow": "take `wall`, handed in by node.py",
    "datetime.date.today": "take `wall`, handed in by node.py",
    "random.*": "take a `random.Random`, handed in by node.py",
    "secrets.*": "take the bytes, drawn by node.py",
    "uuid.uuid1": "take the id, drawn by node.py",
    "uuid.uuid4": "take the id, drawn by node.py",
    "os.urandom": "take the bytes, drawn by node.py",
    "socket.*": "only the transport and the front doors speak to the network, through asyncio",
    "threading.Thread": "one event loop, one writer thread that node.py makes",
    "threading.Timer": "loop.call_later",
    "concurrent.futures.*": "take an executor, made by node.py",
    "multiprocessing.*": "one process is one node",
    "subprocess.*": "a node starts no processes",
    "os.fork": "a node starts no processes",
    "os.system": "a node starts no processes",
    "asyncio.to_thread": "use the executor that node.py made",
    "asyncio.open_connection": "send through the `Transport`",
    "asyncio.start_server": "listen in the transport or in node.py",
    "asyncio.create_subprocess_exec": "a node starts no processes",
    "loop.create_connection": "send through the `Transport`",
    "loop.create_server": "listen in the transport or in node.py",
    "loop.create_datagram_endpoint": "send through the `Transport`",
    "loop.run_in_executor": "disk work goes through the one writer thread, `storage/disk.py`",
    "open": "take what the file holds, or do it in storage",
    "pathlib.Path.read_text": "take what the file holds, or do it in storage",
    "pathlib.Path.read_bytes": "take what the file holds, or do it in storage",
    "pathlib.Path.write_text": "hand the content to node.py, or do it in storage",
    "pathlib.Path.write_bytes": "hand the content to node.py, or do it in storage",
}
"""Calls that tie code to the real world, and what to do instead. A name ending in .* covers a whole module."""

ALLOWED_TO_TOUCH = {
    ("consensus/tcp.py", "socket.*"): "it is the transport: it listens for peers",
    ("consensus/tcp.py", "loop.create_connection"): "it is the transport: it dials peers",
    ("raftbroker/storage/rocks.py", "time.sleep"): "waits out a write stall in the writer thread, never on the loop",
    ("raftbroker/config/sources.py", "pathlib.Path.read_text"): "reads the configuration file it is pointed to",
    ("raftbroker/config/checks.py", "pathlib.Path.read_text"): "reads peers.secret_file",
}
"""Exceptions, each with its reason. Storage has its own rule: it may use files, in the directory handed to it."""

METHODS = {rule.rpartition(".")[2]: rule for rule in INSTEAD if rule.startswith(("loop.", "pathlib.Path."))}
"""Recognised by the method's name alone, whatever it is called on."""

FILE_CALLS = ("open", "pathlib.Path.")

NEVER = {
    "print": "log, or return the value; the command line writes through raftbroker/cli/options.py",
    "input": "nothing here talks with a person but the command line, through Typer",
    "eval": "write the code down",
    "exec": "write the code down",
    "compile": "write the code down",
    "breakpoint": "remove it",
    "pickle.*": "msgspec: pickle runs whatever a peer sends",
    "marshal.*": "msgspec",
    "shelve.*": "the store",
}
"""Never in the library, command line included."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(read(path), filename=str(path))


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    return list(imports_of(parse(path)))


@functools.cache
def called_names(path: Path) -> list[tuple[int, str]]:
    return list(called_names_of(parse(path)))


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported module, with its line; for `from a import b`, both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide which layer is meant"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def called_names_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every call whose full name can be told from the imports, with its line."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            known.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    yield from _calls(tree, known)


def _calls(node: ast.AST, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Calls below `node`; a parameter hides the module of its name, as in `def f(random: Random)`."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        arguments = node.args
        hidden = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
        known = {name: full for name, full in known.items() if name not in hidden}
    if isinstance(node, ast.Call):
        name = _full_name(node.func, known)
        if name:
            yield node.lineno, name
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, known)


def _full_name(function: ast.expr, known: dict[str, str]) -> str:
    attributes: list[str] = []
    while isinstance(function, ast.Attribute):
        attributes.append(function.attr)
        function = function.value
    if attributes and attributes[0] in METHODS:
        return METHODS[attributes[0]]
    if not isinstance(function, ast.Name):
        return ""
    first = known.get(function.id, function.id if not attributes else "")
    return ".".join([first, *reversed(attributes)]) if first else ""


def matching_rule(name: str, rules: dict[str, str]) -> str | None:
    if name in rules:
        return name
    return next((rule for rule in rules if rule.endswith(".*") and name.startswith(rule[:-1])), None)


def layer_of(module: str) -> str | None:
    """The layer of a module's dotted name; None for what is not in raftbroker."""
    parts = module.split(".")
    return parts[1] if parts[0] == "raftbroker" and len(parts) > 1 else None


# --- the rules ------------------------------------------------------------------------------------------


def no(problems: Iterable[str]) -> None:
    """Fails with all problems, one a line."""
    found = sorted(set(problems))
    assert not found, f"{len(found)} found:\n" + "\n".join(found)


def test_the_rules_see_what_they_should() -> None:
    """Planted code, one breach a line, and one name that only looks like one."""
    planted = """
import random, time as clock
from time import monotonic as m
from pathlib import Path
from pickle import loads
clock.sleep(1)
m()
random.Random()
open("x")
Path("x").read_text()
loop.run_in_executor(None, f)
print(1)
loads(b"")
def allowed(random): return random.random()
"""
    rules = {**INSTEAD, **NEVER}
    found = [rule for _, name in called_names_of(ast.parse(planted)) if (rule := matching_rule(name, rules))]
    assert found == [
        "time.sleep",
        "time.monotonic",
        "random.*",
        "open",
        "pathlib.Path.read_text",
        "loop.run_in_executor",
        "print",
        "pickle.*",
    ]


def test_imports_point_down() -> None:
    no(problem for path in LIBRARY for problem in _wrong_imports(path))


def _wrong_imports(path: Path) -> Iterator[str]:
    name = relative(path)
    own = path.relative_to(ROOT).with_suffix("").parts
    in_a_layer = own[0] == "raftbroker" and (len(own) > 2 or own[1] == "node")
    layer = "cli" if own[-1] == "__main__" else own[1] if in_a_layer else None
    for line, module in imports(path):
        where = f"{name}:{line}:"
        target = layer_of(module)
        if own[0] == "consensus":
            if module.startswith("raftbroker"):
                yield f"{where} consensus knows nothing of raftbroker"
        elif target == "config":
            if layer not in ("cli", "node", "config"):
                yield f"{where} only cli and node read the configuration; take values"
        elif target in LAYERS and target != layer:
            if layer not in LAYERS:
                yield f"{where} {layer or 'the package itself'} imports no layer"
            elif layer in FRONT_DOORS and target in FRONT_DOORS:
                yield f"{where} {layer} must not import {target}: front doors do not know each other"
            elif LAYERS.index(layer) > LAYERS.index(target):
                yield f"{where} {layer} must not import {target}: imports point down, {' > '.join(LAYERS)}"


def test_libraries_stay_where_they_belong() -> None:
    no(
        f"{relative(path)}:{line}: only {' and '.join(places)} may import {module}"
        for path in LIBRARY
        for line, module in imports(path)
        if (places := ONLY_HERE.get(module.partition(".")[0])) and not relative(path).startswith(places)
    )


def _touches(path: Path) -> list[tuple[int, str]]:
    name = relative(path)
    if name.startswith(MAY_TOUCH_THE_WORLD):
        return []
    found = [(line, rule) for line, called in called_names(path) if (rule := matching_rule(called, INSTEAD))]
    if name.startswith("raftbroker/storage/"):
        found = [(line, rule) for line, rule in found if not rule.startswith(FILE_CALLS)]
    return found


def test_nothing_but_the_node_and_the_command_line_touches_the_world() -> None:
    no(
        f"{relative(path)}:{line}: {rule} is not for here: {INSTEAD[rule]}"
        for path in LIBRARY
        for line, rule in _touches(path)
        if (relative(path), rule) not in ALLOWED_TO_TOUCH
    )


def test_judging_a_history_touches_nothing() -> None:
    judging = [path for path in HARNESS if relative(path).startswith(JUDGING)]
    assert len(judging) > 15
    no(
        f"{relative(path)}:{line}: {rule} is not for here: a verdict depends on the history alone"
        for path in judging
        for line, called in called_names(path)
        if (rule := matching_rule(called, INSTEAD))
    )
    own = tuple(name.replace("/", ".").removesuffix(".py") for name in JUDGING)
    no(
        f"{relative(path)}:{line}: imports {module}: what judges knows neither the broker nor how a run is made"
        for path in judging
        for line, module in imports(path)
        if module.startswith(("raftbroker", "consensus", "asyncio"))
        or (module.startswith("jepsen.") and not f"{module}.".startswith(own))
    )


def test_nothing_that_is_shipped_knows_the_harness() -> None:
    no(
        f"{relative(path)}:{line}: imports {module}: the harness wraps the broker, not the other way round"
        for path in LIBRARY
        for line, module in imports(path)
        if module.partition(".")[0] in ("jepsen", "tests", "bench")
    )


def test_every_exception_is_still_needed() -> None:
    used = {(relative(path), rule) for path in LIBRARY for _, rule in _touches(path)}
    no(f"{name} does not use {rule} any more; take it from the table" for name, rule in set(ALLOWED_TO_TOUCH) - used)


def test_banned_calls() -> None:
    no(
        f"{relative(path)}:{line}: no {name} here: {NEVER[rule]}"
        for path in (*LIBRARY, *HARNESS)
        for line, name in [*called_names(path), *((line, f"{name}.") for line, name in imports(path))]
        if (rule := matching_rule(name, NEVER))
    )


def test_a_module_opens_with_what_it_is_for() -> None:
    no(
        f"{relative(path)}: say in a docstring what it is for, what it may assume, what it promises"
        for path in EVERYTHING
        if not ast.get_docstring(parse(path)) and not (path.name == "__init__.py" and not read(path).strip())
    )


def test_files_fit_a_reader() -> None:
    lengths = {relative(path): len(read(path).splitlines()) for path in EVERYTHING}
    long = [name for name, lines in lengths.items() if FILE_LINES_USUAL < lines <= FILE_LINES_MAX]
    if long:
        warnings.warn(f"files rarely pass {FILE_LINES_USUAL} lines; look at {', '.join(long)}", stacklevel=1)
    no(
        f"{name} has {lines} lines; a file has one subject: split it"
        for name, lines in lengths.items()
        if lines > FILE_LINES_MAX
    )


def test_functions_fit_a_screen() -> None:
    no(
        f"{relative(path)}:{node.lineno}: {node.name} has {length} lines; split it"
        for path in EVERYTHING
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    )


def lines_matching(pattern: str) -> Iterator[str]:
    for path in EVERYTHING:
        for number, line in enumerate(read(path).splitlines(), 1):
            if re.search(pattern, line):
                yield f"{relative(path)}:{number}: {line.strip()[:60]}"


def test_nothing_is_left_for_later_in_a_comment() -> None:
    no(
        f"{found}: finish it, or open an issue"
        for found in lines_matching("TO" + "DO|FIX" + "ME|XX" + r"X\b|HA" + "CK")
    )


def test_an_exception_to_a_linter_names_the_rule() -> None:
    pattern = r"#\s*(noqa(?!:)|type:\s*ignore(?!\[))"
    no(f"{found}: name the rule that is broken, and say why" for found in lines_matching(pattern))


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    names = {re.split(r"[\[<>=;~! ]", requirement)[0] for requirement in requirements} - {"raftbroker"}
    table = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    reasons = dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \|", table, re.MULTILINE))
    no(f"docs/ARCHITECTURE.md does not say why {name} is needed" for name in names if len(reasons.get(name, "")) < 20)


def test_links_between_documents_lead_somewhere() -> None:
    no(
        f"{relative(path)} links to {target}, which is not there"
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(path))
        if "://" not in target and not (path.parent / target).exists()
    )


def test_the_readme_sets_up_with_two_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in ("make run", "make test"):
        assert command in readme
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
