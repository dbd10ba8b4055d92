"""The configuration: where values come from, what is refused and how it is said, and that nothing drifts apart."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from raftbroker.config import KEYS, SECTIONS, Config, ConfigError, Secret, exposures, load, read_settings, render

ROOT = Path(__file__).parents[2]
READY_FILES = sorted((ROOT / "config").rglob("*.toml"))
LONG_SECRET = "correct horse battery staple"


def problems(*sets: str, path: Path | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, sets, environ)
    return str(caught.value)


def test_without_anything_it_is_one_node_on_loopback() -> None:
    config = load(None, [], {})
    assert config.node.id == 1
    assert config.node.data_dir == Path("data")
    assert config.cluster.initial == ()
    assert exposures(config) == ()
    for section in (config.peers, config.http, config.kafka):
        assert section.listen.startswith("127.0.0.1:")
        assert section.advertised == section.listen


def test_file_then_environment_then_set(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[raft]\nheartbeat_ms = 60\nelection_min_ms = 601\nelection_max_ms = 1601\n")
    environ = {"RAFTBROKER_RAFT__ELECTION_MIN_MS": "602", "RAFTBROKER_RAFT__ELECTION_MAX_MS": "1602"}
    config = load(path, ["raft.election_max_ms=1_603"], environ)
    assert (config.raft.heartbeat_ms, config.raft.election_min_ms, config.raft.election_max_ms) == (60, 602, 1603)


def test_text_becomes_each_kind() -> None:
    config = load(
        None,
        ["cluster.initial=1@10.0.0.1:7082, 2@10.0.0.2:7082", "logging.json=yes", "node.data_dir=/var/x"],
        {"RAFTBROKER_URL": "not a key: no double underscore"},
    )
    assert config.cluster.initial_members == {1: "10.0.0.1:7082", 2: "10.0.0.2:7082"}
    assert config.logging.json is True
    assert config.node.data_dir == Path("/var/x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("raft.hartbeat_ms=3", ["raft.hartbeat_ms (--set)", "did you mean raft.heartbeat_ms?"]),
        ("rafd.heartbeat_ms=3", ["rafd.heartbeat_ms", "did you mean raft.heartbeat_ms"]),
        ("zzz=3", ["zzz", "raftbroker config template"]),
        ("raft.heartbeat_ms", ["--set raft.heartbeat_ms", "must be section.key=value"]),
        ("raft.heartbeat_ms=soon", ["raft.heartbeat_ms", "'soon' is not a whole number"]),
        ("raft.heartbeat_ms=1", ["raft.heartbeat_ms", "1 is too small; it must be 10 to 10000"]),
        ("node.id=70000", ["node.id", "70000 is too large"]),
        ("logging.json=perhaps", ["logging.json", "'perhaps' is not true or false"]),
        ("logging.level=loud", ["logging.level", "'loud' is not one of debug, info, warning, error"]),
        ("http.listen=8082", ["http.listen", "must be host:port"]),
        ("http.listen=::1:8082", ["http.listen", "brackets"]),
        ("http.listen=localhost:0", ["http.listen", "between 1 and 65535"]),
        ("http.listen=0.0.0.0:8082", ["http.listen", "set http.advertised"]),
        ("http.advertised=[::]:8082", ["http.advertised", "nobody can connect"]),
        ("cluster.initial=10.0.0.1:7082", ["cluster.initial", "ID@host:port"]),
        ("cluster.initial=2@10.0.0.1:7082", ["cluster.initial", "node.id = 1", "cluster.join"]),
        ("cluster.initial=1@a:1,2@a:1", ["cluster.initial", "twice"]),
        ("cluster.initial=1@a:1,1@b:1", ["cluster.initial", "twice"]),
        ("http.listen=127.0.0.1:7082", ["peers.listen, http.listen", "its own port"]),
        ("raft.election_min_ms=200", ["raft.election_min_ms", "3 times raft.heartbeat_ms"]),
        ("raft.election_max_ms=550", ["raft.election_max_ms", "do not tie"]),
        ("peers.secret=short", ["peers.secret (--set)", "too short", "openssl rand"]),
        ("peers.secret_file=/does/not/exist", ["peers.secret_file", "cannot read /does/not/exist"]),
        ("peers.tls_cert=/does/not/exist", ["peers.tls_key, peers.tls_ca: missing", "no file /does/not/exist"]),
        ("peers.listen=10.0.0.1:7082", ["peers.secret: must be set", "10.0.0.1:7082", "peers.secret_file"]),
        ("node.data_dir=", ["node.data_dir", "must name a directory"]),
    ],
)
def test_each_refusal_names_the_key_and_the_way_out(given: str, words: list[str]) -> None:
    message = problems(given)
    for word in words:
        assert word in message


def test_all_problems_are_told_at_once() -> None:
    message = problems("node.id=x", "raft.heartbeat_ms=x", RAFTBROKER_HTTP__LISEN="y")
    assert len(message.splitlines()) == 3
    assert "http.lisen (environment RAFTBROKER_HTTP__LISEN)" in message


def test_join_excludes_initial() -> None:
    assert "cluster.join" in problems("cluster.initial=1@127.0.0.1:7082", "cluster.join=127.0.0.1:7083")
    assert load(None, ["cluster.join=127.0.0.1:7083"], {}).cluster.join == ("127.0.0.1:7083",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node = 1\n", "below a [section] line"),
        ("[raftt]\nx = 1\n", "did you mean raft?"),
        ("[node]\nid = one\n", "not valid TOML"),
        ("[node]\nid = '1x'\n", "not a whole number"),
        ("[node]\nid = true\n", "not a whole number"),
        ("[http]\nlisten = 8082\n", "put it in quotes"),
        ("[cluster]\ninitial = 3\n", "not a list"),
        ("[cluster]\ninitial = [3]\n", "put it in quotes"),
        ("[peers]\nsecret = 3\n", "must be a string"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    message = problems(path=path)
    assert words in message
    assert str(path) in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "raftbroker config template" in problems(path=tmp_path / "absent.toml")


def test_the_secret_comes_from_its_file_and_shows_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"  {LONG_SECRET}\n")
    config = load(None, [f"peers.secret_file={path}", "peers.listen=10.0.0.1:7082"], {})
    assert config.peers.secret.reveal() == LONG_SECRET.encode()
    settings = read_settings(None, [f"peers.secret={LONG_SECRET}"], {})
    shown = [repr(config), str(config), str(config.peers.secret), render(settings.values, settings.origins)]
    shown += [f"{config.peers.secret}", repr(settings)]
    for text in shown:
        assert "horse" not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


def test_secret_and_secret_file_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(LONG_SECRET)
    assert "keep one" in problems(f"peers.secret_file={path}", f"peers.secret={LONG_SECRET}")


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("\n")
    assert "is empty" in problems(f"peers.secret_file={path}")


def test_mutual_tls_serves_instead_of_a_secret(tmp_path: Path) -> None:
    sets = ["peers.listen=10.0.0.1:7082"]
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("")
        sets.append(f"peers.tls_{name}={tmp_path / name}")
    assert not load(None, sets, {}).peers.secret


def test_listeners_that_others_can_reach_are_told() -> None:
    sets = ["http.listen=0.0.0.0:8082", "http.advertised=broker:8082", f"peers.secret={LONG_SECRET}"]
    sets += ["kafka.listen=0.0.0.0:9092", "kafka.advertised=broker:9092"]
    config = load(None, [*sets, "peers.listen=10.0.0.1:7082"], {})
    told = exposures(config)
    assert len(told) == 3
    assert any("http.listen 0.0.0.0:8082" in sentence for sentence in told)
    assert any("kafka.listen 0.0.0.0:9092" in sentence for sentence in told)
    assert not any("horse" in sentence for sentence in told)


def test_the_template_is_the_defaults() -> None:
    document = tomllib.loads(render({}))
    assert list(document) == list(SECTIONS)
    found = {f"{section}.{name}": value for section, content in document.items() for name, value in content.items()}
    assert list(found) == list(KEYS)
    for name, info in KEYS.items():
        value = found[name]
        if info.kind == "list":
            assert tuple(value) == info.default
        elif info.kind == "secret":
            assert Secret(value) == info.default
        else:
            assert type(info.default)(value) == info.default


def test_every_key_has_a_comment_and_numbers_have_bounds() -> None:
    for info in KEYS.values():
        assert len(info.key.comment) > 15, info.full_name
        assert info.key.comment.endswith((".", "10.0.0.1:7082")), info.full_name
        if info.kind == "integer":
            assert info.key.minimum is not None, info.full_name
            assert info.key.maximum is not None, info.full_name


def test_every_section_has_a_struct_with_a_comment() -> None:
    assert list(SECTIONS) == list(Config.__struct_fields__)
    assert all(SECTIONS.values())


@pytest.mark.parametrize("path", READY_FILES, ids=lambda path: str(path.relative_to(ROOT / "config")))
def test_ready_files_load_and_mention_every_key(path: Path) -> None:
    load(path, [], {"RAFTBROKER_PEERS__SECRET": LONG_SECRET})
    lines = path.read_text().splitlines()
    for info in KEYS.values():
        assert any(line.startswith(f"{info.name} = ") for line in lines), info.full_name
        assert lines.count(f"# Environment: {info.environment}") == 1, info.full_name


def test_what_is_derived_from_the_keys_is_up_to_date() -> None:
    """The ready files are what the template writes, and docs/configuration.md has every key as it is."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "derive.py"], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_ready_files_are_there() -> None:
    names = {str(path.relative_to(ROOT / "config")) for path in READY_FILES}
    expected = {"one-node.toml"}
    for count, folder in ((3, "three-nodes"), (5, "five-nodes")):
        expected |= {f"{folder}/node-{number}.toml" for number in range(1, count + 1)}
    assert names == expected


@pytest.mark.parametrize("folder", ["three-nodes", "five-nodes"])
def test_nodes_of_one_folder_form_one_cluster(folder: str) -> None:
    configs = [load(path, [], {"RAFTBROKER_PEERS__SECRET": LONG_SECRET}) for path in READY_FILES if folder in str(path)]
    members = configs[0].cluster.initial_members
    assert {config.node.id for config in configs} == set(members)
    for config in configs:
        assert config.cluster.initial_members == members
        assert members[config.node.id] == config.peers.advertised
    assert len({config.node.data_dir for config in configs}) == len(configs)
