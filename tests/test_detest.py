"""DETEST's nonstiff problems under SciPy's step rule: tolerances mean what they say, and Tsit5 is what it is said to be."""

import numpy as np
import pytest
import scipy.integrate

from bench.detest import END, PROBLEMS, measure, reference

ids = [problem.name for problem in PROBLEMS]


@pytest.mark.parametrize("problem", PROBLEMS, ids=ids)
def test_the_references_are_scipys(problem):
    y = scipy.integrate.solve_ivp(problem.fun, (0.0, END), problem.y0, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(reference(problem), y, rtol=2e-8, atol=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS, ids=ids)
@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "DOP853"])
def test_the_error_follows_the_tolerance(problem, method):
    """Over three decades of the tolerance the error falls by a factor of twenty at least, and is never far above it (the eccentric orbits amplify most)."""
    loose, tight = (measure(problem, method, tolerance, local=False) for tolerance in (1e-5, 1e-8))
    assert tight["ratio"] < 3000.0 and loose["ratio"] < 3000.0
    assert tight["ratio"] * 1e-8 < 0.05 * loose["ratio"] * 1e-5 + 5e-9  # an error at the end that is small by luck apart
    assert tight["nfev"] > loose["nfev"]


def test_tsit5_against_dopri5():
    """At the same tolerance Tsit5 makes smaller errors with about as many evaluations, and is deceived about as rarely."""
    rows = {method: [measure(problem, method, 1e-6) for problem in PROBLEMS] for method in ("Tsit5", "Dopri5")}
    nfev = {method: sum(row["nfev"] for row in own) for method, own in rows.items()}
    mean = {method: np.mean(np.log([row["ratio"] for row in own])) for method, own in rows.items()}
    deceived = {method: sum(row["deceived"] for row in own) / sum(row["steps"] for row in own) for method, own in rows.items()}
    assert 0.85 < nfev["Tsit5"] / nfev["Dopri5"] < 1.05
    assert mean["Tsit5"] < mean["Dopri5"]
    assert deceived["Tsit5"] <= deceived["Dopri5"] + 0.01 and deceived["Tsit5"] < 0.08
