"""`check_gradients`: it passes right gradients, and names the block in which a wrong one is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from frozen import field_of
from hypothesis import assume, given, settings
from strategies import METHODS, methods, networks, parameters, seeds

import adaptode as ao
from adaptode.adjoint import ADJOINTS
from adaptode.errors import InputError, SolveError
from adaptode.fields import MLP, PythonField
from adaptode.tableau import get_tableau

SIZES = (2, 4, 2)
FIELD, THETA, Y = MLP(SIZES, time="every"), parameters(8, SIZES, "every"), np.array([[0.8, -0.4], [0.2, 1.1]])
BLOCKS = ["y0", "W1", "v1", "b1", "W2", "v2", "b2", "t0", "t1"]
EXACT = ["discrete", "forward"]


def solved(field=FIELD, theta=THETA, span=(0.0, 1.0), **options):
    options = {"rtol": 1e-6, "atol": 1e-6} | options
    if not get_tableau(options.get("method", "Tsit5")).adaptive:
        options["first_step"] = 0.13
    return ao.solve(field, theta, Y, span, **options)


def test_every_adjoint_and_block_has_its_row_and_agrees():
    report = ao.check_gradients(solved(saveat=[0.3, 1.0]), jumps=[(0.55, Y)])
    assert report.passed and not report.failed and report.reference == "complex step"
    assert {row.method for row in report.rows} == {*ADJOINTS, "finite differences", "controller"}
    for name in ADJOINTS:
        rows = [row for row in report.rows if row.method == name]
        assert [row.block for row in rows] == BLOCKS
        assert report.first_disagreement(name) is None
        assert name not in EXACT or max(row.difference for row in rows if row.block[0] != "t") < 1e-12
    assert "frozen grid" in report.differentiates["discrete"] and "flow" in report.differentiates["backsolve"]
    assert "through the controller" in report.differentiates["controller"]
    text = str(report)
    assert all(name in text for name in (*ADJOINTS, *BLOCKS, "rtol 1e-06")) and "DISAGREES" not in text and text.count("agrees") == 7


@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method, controller):
    report = ao.check_gradients(solved(method=method, controller=controller, rtol=1e-4), adjoints=EXACT)
    assert report.passed, str(report)


@settings(max_examples=15)
@given(networks(max_batch=2), methods, seeds)
def test_any_network(network, method, seed):
    run = ao.solve(field_of(network), network.theta, network.y, (0.3, -0.5), method=method, first_step=0.1, rtol=1e-4, atol=1e-4, max_steps=100)
    assume(run.success)
    report = ao.check_gradients(run, rng=seed, adjoints=EXACT)
    assert report.passed, str(report)


@pytest.mark.parametrize("keep", ["none", 3, "stages"])
def test_whatever_was_kept(keep):
    report = ao.check_gradients(solved(keep=keep))
    assert report.passed and {*ADJOINTS} <= set(report.differentiates), str(report)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_float32(dtype):
    run = ao.solve(FIELD, THETA.astype(dtype), Y.astype(dtype), (1.0, 0.2), rtol=1e-4, atol=1e-4)
    assert ao.check_gradients(run).passed


def sine(wrong=None, analytic=True):
    """y' = θ0 sin(θ1 t + y); `wrong` names what its derivatives get wrong."""

    def value(t, y, theta):
        z = theta[0] * np.sin(theta[1] * t + y)
        return z if analytic else z.real

    def vjp(t, y, theta, w):
        z = theta[1] * t + y
        y_bar = theta[0] * np.cos(z) * w * (1.01 if wrong == "y" else 1)
        return y_bar, [np.sum(np.sin(z) * w), theta[0] * t * np.sum(np.cos(z) * w) * (-1 if wrong == "theta" else 1)]

    def time_vjp(t, y, theta, w):
        return (theta[0] if wrong != "time" else 1.0) * theta[1] * np.sum(np.cos(theta[1] * t + y) * w)

    def jvp(t, y, theta, y_dot):
        return theta[0] * np.cos(theta[1] * t + y) * y_dot

    return PythonField(value, 2, 2, vjp=vjp, time_vjp=time_vjp, jvp=jvp)


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize(("wrong", "block"), [("theta", "theta"), ("time", "t0"), ("y", "y0"), (None, None)])
def test_a_mistake_is_found_and_its_block_named(wrong, block, analytic):
    run = solved(sine(wrong, analytic), [1.3, 2.0])
    report = ao.check_gradients(run)
    assert report.reference == ("complex step" if analytic else "finite differences")
    assert report.passed == (wrong is None), str(report)
    first = report.first_disagreement("discrete")
    assert (first and first.block) == block
    assert wrong is None or f"discrete: differentiates the computed numbers, on the frozen grid; DISAGREES first in {block}" in str(report)
    if wrong == "y":  # forward takes the field's jvp, which is right
        assert report.first_disagreement("forward") is None


def test_the_names_of_the_parts_of_theta():
    class Broken(MLP):
        def vjp(self, t, y, theta, w):
            y_bar, theta_bar = super().vjp(t, y, theta, w)
            self.views(theta_bar)["W2"][:] *= 1.001
            return y_bar, theta_bar

    report = ao.check_gradients(solved(Broken(SIZES, time="every")), adjoints=EXACT)  # discrete goes by the kernels, forward by the method
    assert report.first_disagreement("discrete") is None and report.first_disagreement("forward").block == "W2"


def test_a_field_without_time_vjp_or_parameters():
    field = PythonField(lambda t, y, theta: -y * y, 2, vjp=lambda t, y, theta, w: (-2 * y * w, []))
    report = ao.check_gradients(solved(field, []), adjoints=["discrete"])
    assert report.passed and {row.block for row in report.rows} == {"y0"}


def test_an_adjoint_that_fails_is_told():
    field = PythonField(lambda t, y, theta: -400.0 * (y - np.cos(t)), 2, vjp=lambda t, y, theta, w: (-400.0 * w, []))
    report = ao.check_gradients(solved(field, [], rtol=1e-4, atol=1e-4), adjoints=["discrete", "backsolve"])
    assert not report.passed and ("backsolve" in report.failed or report.first_disagreement("backsolve") is not None)
    assert report.first_disagreement("discrete") is None


def test_relu_has_finite_differences_alone():
    field = MLP((2, 3, 2), activation="relu")
    report = ao.check_gradients(solved(field, field.init(3)), adjoints=["discrete"])
    assert report.reference == "finite differences" and {row.method for row in report.rows} == {"discrete", "controller"}


def test_named_errors():
    run = solved()
    with pytest.raises(InputError, match="no adjoint 'autodiff' applies to this run; there are discrete, forward"):
        ao.check_gradients(run, adjoints=["autodiff"])
    with pytest.raises(InputError, match="starts with the run"):
        ao.check_gradients(FIELD)
    with pytest.raises(InputError, match="y_bar must have the shape"):
        ao.check_gradients(run, np.ones(3))
    failed = ao.solve(MLP((1, 1), preactivation="cube"), [1.0, 0.0], [[2.0]], (0.0, 1.0))
    with pytest.raises(SolveError):
        ao.check_gradients(failed)
