"""What the harness can break, by name: see each module's text."""

from collections.abc import Iterable, Mapping

from jepsen.faults.base import Fault, Field, Skipped, Stuck
from jepsen.faults.clock import Clock
from jepsen.faults.damage import Damage, Wipe
from jepsen.faults.disk import Full, SlowDisk
from jepsen.faults.members import Join, Storm
from jepsen.faults.network import Lossy, Partition, Slow
from jepsen.faults.processes import Kill, Pause, PowerLoss, Restart

__all__ = ["FAULTS", "Fault", "Field", "Skipped", "Stuck", "chosen"]

FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        Kill,
        Pause,
        Partition,
        Slow,
        Lossy,
        Clock,
        Full,
        SlowDisk,
        PowerLoss,
        Damage,
        Wipe,
        Restart,
        Join,
        Storm,
    )
}


def chosen(names: Iterable[str], kinds: Mapping[str, type[Fault]] = FAULTS) -> dict[str, tuple[str, ...]]:
    """Fault name -> variants, from names such as `kill`, `kill:majority`, `all` or `none`. Raises ValueError."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        fault, _, variant = name.partition(":")
        if name == "none":
            continue
        if name == "all":
            found |= {each: kind.variants for each, kind in kinds.items() if each not in found}
        elif fault not in kinds:
            raise ValueError(f"there is no fault {fault!r}; there are {', '.join(kinds)}, and all, none")
        elif variant and variant not in kinds[fault].variants:
            raise ValueError(f"{fault} has no variant {variant!r}; it has {', '.join(kinds[fault].variants)}")
        else:
            found[fault] = (*found.get(fault, ()), variant) if variant else kinds[fault].variants
    return found
