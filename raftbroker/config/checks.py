"""The checks of values against each other, and the finished `Config`.

Reads `peers.secret_file` and looks whether certificates are there; assumes each value alone is good (`sources`).
"""

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from raftbroker.config.keys import KEYS, SECTIONS, Config
from raftbroker.config.sources import Settings, read_settings
from raftbroker.config.values import SECRET_LENGTH_MIN, ConfigError, Secret, Value, is_loopback, is_wildcard


def load(path: Path | None, sets: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration, every check passed and every empty `advertised` filled in. Raises ConfigError."""
    return build(read_settings(path, sets, environ))


def build(settings: Settings) -> Config:
    """Checks the values against each other. Raises ConfigError."""
    problems: list[str] = []
    values = dict(settings.values)
    for section in ("peers", "http", "kafka"):
        _fill_advertised(section, values, settings, problems)
    if not values["peers.secret"] and values["peers.secret_file"]:
        values["peers.secret"] = _read_secret(settings, problems)
    elif values["peers.secret"] and values["peers.secret_file"]:
        problems.append(f"{settings.where('peers.secret_file')}: peers.secret is set as well; keep one of the two")
    sections = {section: _make_section(section, values) for section in SECTIONS}
    config = Config(**sections)
    problems += _check_peers(config, settings) + _check_cluster(config, settings) + _check_times(config, settings)
    if problems:
        raise ConfigError(problems)
    return config


def _make_section(section: str, values: Mapping[str, Value]) -> typing.Any:
    """The struct of a section; its type is known only to `Config`'s hints, which the caller follows."""
    struct = typing.get_type_hints(Config)[section]
    return struct(**{info.name: values[name] for name, info in KEYS.items() if info.section == section})


def _fill_advertised(section: str, values: dict[str, Value], settings: Settings, problems: list[str]) -> None:
    listen = str(values[f"{section}.listen"])
    advertised = str(values[f"{section}.advertised"])
    if not advertised and is_wildcard(listen):
        problems.append(
            f"{settings.where(f'{section}.listen')}: {listen} listens on every interface, but others need an address to"
            f" reach this node; set {section}.advertised to host:port"
        )
    elif advertised and is_wildcard(advertised):
        problems.append(f"{settings.where(f'{section}.advertised')}: nobody can connect to {advertised}; name a host")
    values[f"{section}.advertised"] = advertised or listen


def _read_secret(settings: Settings, problems: list[str]) -> Secret:
    path = Path(str(settings.values["peers.secret_file"]))
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        problems.append(f"{settings.where('peers.secret_file')}: cannot read {path}: {reason}")
        return Secret("*" * SECRET_LENGTH_MIN)
    if not text:
        problems.append(f"{settings.where('peers.secret_file')}: {path} is empty; put the shared secret into it")
    return Secret(text)


def _check_peers(config: Config, settings: Settings) -> list[str]:
    problems = []
    peers = config.peers
    tls = {"tls_cert": peers.tls_cert, "tls_key": peers.tls_key, "tls_ca": peers.tls_ca}
    missing = [f"peers.{name}" for name, path in tls.items() if not path]
    if 0 < len(missing) < len(tls):
        problems.append(f"{', '.join(missing)}: missing; mutual TLS needs peers.tls_cert, tls_key and tls_ca together")
    problems += [
        f"{settings.where(f'peers.{name}')}: there is no file {path}"
        for name, path in tls.items()
        if path and not Path(path).is_file()
    ]
    if peers.secret and len(peers.secret.reveal()) < SECRET_LENGTH_MIN:
        origin = "peers.secret" if settings.values["peers.secret"] else "peers.secret_file"
        problems.append(
            f"{settings.where(origin)}: the shared secret is too short; use at least {SECRET_LENGTH_MIN} characters,"
            " for instance from `openssl rand -hex 32`"
        )
    if not peers.secret and missing and not is_loopback(peers.listen):
        problems.append(
            f"peers.secret: must be set because {settings.where('peers.listen')} is {peers.listen}, which others"
            " can reach; set peers.secret or peers.secret_file to the same secret on every node"
        )
    return problems


def _check_cluster(config: Config, settings: Settings) -> list[str]:
    problems = []
    cluster = config.cluster
    if cluster.initial and cluster.join:
        problems.append(
            f"{settings.where('cluster.join')}: cluster.initial is set as well; keep `initial` on the nodes that form"
            " the cluster, `join` on those that come later"
        )
    numbers = [member.partition("@")[0] for member in cluster.initial]
    addresses = [member.partition("@")[2] for member in cluster.initial]
    if len(set(map(int, numbers))) < len(numbers) or len(set(addresses)) < len(addresses):
        problems.append(f"{settings.where('cluster.initial')}: an id or an address stands there twice")
    if cluster.initial and config.node.id not in cluster.initial_members:
        problems.append(
            f"{settings.where('cluster.initial')}: does not name this node, {settings.where('node.id')} ="
            f" {config.node.id}; add {config.node.id}@{config.peers.advertised} to the list on every node, or use"
            " cluster.join if the cluster already runs"
        )
    listens = [config.peers.listen, config.http.listen, config.kafka.listen]
    if len(set(listens)) < len(listens):
        problems.append("peers.listen, http.listen and kafka.listen: two of them are the same; give each its own port")
    return problems


def _check_times(config: Config, settings: Settings) -> list[str]:
    raft = config.raft
    problems = []
    if raft.election_min_ms < 3 * raft.heartbeat_ms:
        problems.append(
            f"{settings.where('raft.election_min_ms')}: {raft.election_min_ms} is less than 3 times raft.heartbeat_ms"
            f" ({raft.heartbeat_ms}); one late heartbeat would depose a leader"
        )
    if raft.election_max_ms < raft.election_min_ms * 1.2:
        problems.append(
            f"{settings.where('raft.election_max_ms')}: {raft.election_max_ms} is too close to raft.election_min_ms"
            f" ({raft.election_min_ms}); make it at least 1.2 times as long, so that candidates do not tie"
        )
    groups = config.groups
    if groups.session_ms_max < groups.session_ms_min:
        problems.append(
            f"{settings.where('groups.session_ms_max')}: {groups.session_ms_max} is less than groups.session_ms_min"
            f" ({groups.session_ms_min}); no member could join"
        )
    if groups.consumer_session_ms < 2 * groups.consumer_heartbeat_ms:
        problems.append(
            f"{settings.where('groups.consumer_session_ms')}: {groups.consumer_session_ms} is less than twice"
            f" groups.consumer_heartbeat_ms ({groups.consumer_heartbeat_ms}); one late heartbeat would end a session"
        )
    return problems


def exposures(config: Config) -> tuple[str, ...]:
    """A sentence for each listener that other machines can reach; a node logs them when it starts."""
    found = []
    if not is_loopback(config.peers.listen):
        found.append(f"peers.listen {config.peers.listen} is reachable from other machines; peers prove themselves")
    if not is_loopback(config.http.listen):
        found.append(
            f"http.listen {config.http.listen} is reachable from other machines, and this version has no users or"
            " permissions: whoever reaches it may read, write and delete everything"
        )
    if not is_loopback(config.kafka.listen):
        found.append(
            f"kafka.listen {config.kafka.listen} is reachable from other machines, and this version has no users or"
            " permissions: whoever reaches it may read, write and delete everything"
        )
    return tuple(found)
