"""All penalties in one objective: what each adds is what it adds alone, reported part by part."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import field_of
from test_pointwise import NET

import adaptode as ao
from adaptode.adjoint import ADJOINTS

CATALOGUE = {
    "local_error": lambda: ao.LocalError(ao.Linear(2.0, 1.0, 5), detach=(), samples=2),
    "local_stiffness": lambda: ao.LocalError(0.1, "biased", estimate="stiffness", detach=()),
    "global_error": lambda: ao.GlobalError(10.0),
    "global_stiffness": lambda: ao.GlobalError(0.1, "stiffness", reduce="max"),
    "kinetic": lambda: ao.Kinetic(0.2),
    "jacobian_frobenius": lambda: ao.JacobianFrobenius(0.1, "rademacher", at="random"),
    "directional": lambda: ao.Directional(0.1, nodes=3),
    "frobenius": lambda: ao.JacobianNorm("frobenius", 0.1, at="path", nodes=3),
    "spectral": lambda: ao.JacobianNorm("spectral", 0.1, at="end_to_end"),
    "condition_number": lambda: ao.ConditionNumber(ao.PerEpoch(ao.Constant(0.01), 2), reduce="max"),
    "log_condition_number": lambda: ao.ConditionNumber(0.1, log=True, at="random", detach="state"),
    "steer": lambda: ao.Steer(0.3),
}
Y = np.array([[0.5, 0.1], [-0.2, 0.3], [0.0, 1.0]])


class Given:
    """Variates as a generator would draw them."""

    def __init__(self, *variates):
        self.rest = list(variates)

    def random(self):
        return self.rest.pop(0)


def evaluate(penalties, variates, dtype="float64", **options):
    objective = ao.Objective(field_of(NET), "mean_squared_error", penalties=penalties, dtype=dtype, **options)
    assert json.loads(json.dumps(objective.config())) == objective.config()
    return objective.value_and_grad(NET.theta, NET.y, Y, rng=Given(*variates), step=3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["Tsit5", "Dopri5"])
def test_what_each_adds_is_what_it_adds_alone(method, dtype):
    """All of them over the span that STEER draws."""
    variates = np.random.default_rng(0).random(len(CATALOGUE)).tolist()
    whole = evaluate([make() for make in CATALOGUE.values()], variates, dtype, method=method)
    assert list(whole.parts) == ["task", *CATALOGUE] and whole.parts["steer"] == 0.0
    assert whole.loss == pytest.approx(sum(whole.parts.values()), rel=1e-12) and whole.grad.dtype == dtype
    steer = (CATALOGUE["steer"](), variates[-1])
    none = evaluate([steer[0]], [steer[1]], dtype, method=method)
    total, rtol = none.grad.copy(), 1e-9 if dtype == "float64" else 1e-2
    for (name, make), variate in zip(CATALOGUE.items(), variates, strict=True):
        if name == "steer":
            continue
        alone = evaluate([make(), steer[0]], [variate, steer[1]], dtype, method=method)
        assert alone.parts[name] == pytest.approx(whole.parts[name], rel=rtol) and alone.parts[name] > 0.0
        assert np.linalg.norm(alone.grad - none.grad) > 1e-3 * np.linalg.norm(none.grad), name
        total += alone.grad - none.grad
    np.testing.assert_allclose(whole.grad, total, rtol=0, atol=rtol * np.abs(total).max())


@pytest.mark.parametrize("make", CATALOGUE.values(), ids=CATALOGUE)
def test_each_says_what_it_is(make):
    penalty = make()
    assert type(penalty).__name__ in repr(penalty) and json.loads(json.dumps(penalty.config())) == penalty.config()
    assert getattr(ao, type(penalty).__name__) is type(penalty)


def test_a_negative_weight_is_refused_by_each():
    for make in (ao.LocalError, ao.GlobalError, ao.Kinetic, ao.JacobianFrobenius, ao.Directional, ao.ConditionNumber):
        for bad in (-1.0, np.nan, np.inf, "1"):
            with pytest.raises(ao.InputError, match=f"{make.__name__}: its weight must be a number of at least 0 or a schedule"):
                make(bad)
    with pytest.raises(ao.InputError, match="JacobianNorm: its weight"):
        ao.JacobianNorm("frobenius", -1.0)
    for make in (lambda: ao.Linear(1.0, -1.0, 3), lambda: ao.Exponential(-1.0, 1.0, 3)):
        with pytest.raises(ao.InputError, match="at least 0"):
            make()


def test_training_with_them():
    makes = ("local_error", "global_error", "kinetic", "log_condition_number", "steer")
    objective = ao.Objective(field_of(NET), "mean_squared_error", penalties=[CATALOGUE[name]() for name in makes])
    result = ao.fit(objective, NET.y, Y, params=NET.theta, optimizer=ao.Adam(0.03), steps=40, rng=1)
    parts = [objective.value_and_grad(p, NET.y, Y, rng=np.random.default_rng(0)).loss for p in (NET.theta, result.params)]
    assert parts[1] < 0.5 * parts[0]


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "discrete"] or ["discrete"])
def test_every_adjoint_carries_every_penalty_home(adjoint):
    """Each at a tolerance where the continuous adjoints come near the discrete one."""
    names = [name for name, make in CATALOGUE.items() if make().adjoints is None and name != "condition_number"]
    for name in names:
        got, expected = (evaluate([CATALOGUE[name]()], [0.37], adjoint=a, rtol=1e-8, atol=1e-8) for a in (adjoint, "discrete"))
        assert got.parts == expected.parts
        assert np.linalg.norm(got.grad - expected.grad) < 1e-6 * np.linalg.norm(expected.grad), name
