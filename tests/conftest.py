"""Settings that every test shares."""

import os

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")

# No deadline: the first example of a property may compile. CI draws the same examples every time.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=35, **_COMMON)
settings.register_profile("ci", max_examples=35, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

# Made once with torch and torchdiffeq, which the tests do not need.
collect_ignore = ["make_reference_torchdiffeq.py"]


def pytest_collection_modifyitems(items):
    """The example of `jit_solver` compiles a solver."""
    for item in items:
        if item.name == "adaptode.jitted.jit_solver":
            item.add_marker(pytest.mark.compiles)
