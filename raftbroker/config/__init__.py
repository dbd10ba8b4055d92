"""What a node can be told: every key with its default, its comment and its check.

A value comes from, later winning: the defaults below, the TOML file, the environment
(`RAFTBROKER_SECTION__KEY`), and `--set section.key=value`. With no file at all the result is a single node on
loopback that keeps its data in ./data.

`load` returns a frozen `Config` in which every check has passed: addresses parse, advertised addresses and the
shared secret are filled in. All that is wrong is told at once, in one `ConfigError` whose lines each name the
key, where its value came from, and what to do. The shared secret is held in a `Secret`, which never shows
itself in a repr, a log or a rendered file.

This package reads the files it is pointed to (the configuration, `peers.secret_file`) and touches nothing else.
"""

from raftbroker.config.checks import build, exposures, load
from raftbroker.config.keys import (
    KEYS,
    SECTIONS,
    ClusterConfig,
    Config,
    HttpConfig,
    KafkaConfig,
    KeyInfo,
    LogConfig,
    LoggingConfig,
    NodeConfig,
    PeersConfig,
    RaftConfig,
    StorageConfig,
)
from raftbroker.config.render import render, to_toml
from raftbroker.config.sources import Settings, read_settings
from raftbroker.config.values import ConfigError, Secret, Value, is_loopback, split_address

__all__ = [
    "KEYS",
    "SECTIONS",
    "ClusterConfig",
    "Config",
    "ConfigError",
    "HttpConfig",
    "KafkaConfig",
    "KeyInfo",
    "LogConfig",
    "LoggingConfig",
    "NodeConfig",
    "PeersConfig",
    "RaftConfig",
    "Secret",
    "Settings",
    "StorageConfig",
    "Value",
    "build",
    "exposures",
    "is_loopback",
    "load",
    "read_settings",
    "render",
    "split_address",
    "to_toml",
]
