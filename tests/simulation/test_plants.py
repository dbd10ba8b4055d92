"""Can the simulation fail? Each planted bug must be caught, and each script must pass without one."""

import pytest

from .plants import PLANTS
from .runner import random_script


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    plant = PLANTS[name]
    for seed in range(plant.found_at, plant.found_at + plant.tries):
        if plant.run(seed).error is not None:
            return
    pytest.fail(f"{name} ({plant.rule}) was not caught by {plant.tries} seeds from {plant.found_at} on")


@pytest.mark.parametrize("name", [name for name, plant in PLANTS.items() if plant.script is not random_script])
def test_its_script_passes_without_it(name: str) -> None:
    plant = PLANTS[name]
    for seed in range(plant.found_at, plant.found_at + 3):
        result = plant.run(seed, planted=False)
        if result.error is not None:
            raise AssertionError(f"{name}: seed {seed} fails without the bug: {result.error}") from result.error
