"""STEER: the end of the span at random in training, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import field_of
from scipy.stats import kstest
from test_pointwise import NET

from adaptode.errors import InputError
from adaptode.regularize import GlobalError, JacobianNorm, LocalError, Steer
from adaptode.training.objective import Objective

Y = np.array([[0.5, 0.1], [-0.2, 0.3], [0.0, 1.0]])


def objective(penalties, **options):
    return Objective(field_of(NET), "mean_squared_error", penalties=penalties, **options)


@pytest.mark.parametrize("span", [(0.0, 1.0), (2.0, -1.0)])
def test_the_end_is_uniform_around_the_nominal_one(span):
    ends = np.array([Steer(0.5).span(span, v) for v in np.random.default_rng(0).random(500)])
    assert (ends[:, 0] == span[0]).all()
    assert kstest(ends[:, 1], "uniform", (span[1] - 0.5, 1.0)).pvalue > 1e-3
    assert Steer(0.5).span(span, 0.0)[1] == span[1] - 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_and_gradient_are_those_of_the_drawn_span(seed):
    """With every other penalty of the same variate, evaluated on the span that was solved."""
    others = [LocalError(5.0, detach=()), JacobianNorm("frobenius", 0.1, at="path"), GlobalError(1.0)]
    v = np.random.default_rng(seed).random(4)
    T = 1.0 + (2 * v[0] - 1) * 0.5
    got = objective([Steer(0.5), *others]).value_and_grad(NET.theta, NET.y, Y, rng=np.random.default_rng(seed))

    class After:  # the generator after Steer's draw
        variates = iter(v[1:])

        def random(self):
            return next(self.variates)

    same = objective(others, tspan=(0.0, T)).value_and_grad(NET.theta, NET.y, Y, rng=After())
    assert got.parts.pop("steer") == 0.0 and got.parts == same.parts and abs(T - 1) > 1e-3
    np.testing.assert_array_equal(got.grad, same.grad)


def test_predictions_end_at_the_nominal_time():
    with_, without = objective([Steer(0.5)]), objective([])
    np.testing.assert_array_equal(with_.predict(NET.theta, NET.y), without.predict(NET.theta, NET.y))


def test_arguments():
    for b in (0.0, -0.5, np.nan, np.inf, "half", True):
        with pytest.raises(InputError, match=r"Steer\(b\): b must be a time greater than 0"):
            Steer(b)
    for span in ((0.0, 1.0), (0.0, -1.0)):
        with pytest.raises(InputError, match="smaller than the length of the span, 1, .*got 1"):
            objective([Steer(1.0)], tspan=span)
        objective([Steer(0.99)], tspan=span)
    with pytest.raises(InputError, match="Steer moves the end of the span, and observation times are fixed"):
        objective([Steer(0.5)], times=[0.5, 1.0])
    with pytest.raises(InputError, match="only one penalty can move the end of the span; got Steer and Steer"):
        objective([Steer(0.2), Steer(0.1)])
    assert json.loads(json.dumps(Steer(0.5).config())) == {"penalty": "Steer", "b": 0.5} and repr(Steer(0.5)) == "Steer(0.5)"
