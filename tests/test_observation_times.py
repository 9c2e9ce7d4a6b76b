"""An objective that sees the flow at several times, by any adjoint that is registered."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
from frozen import assert_directional, field_of, frozen, states_at
from test_pointwise import NET, Cubes

import adaptode as ao
from adaptode.adjoint import discrete
from adaptode.errors import InputError
from adaptode.regularize import JacobianNorm, LocalError
from adaptode.training.heads import LinearHead
from adaptode.training.objective import Objective

TIMES = {(0.0, 1.0): [0.0, 0.2, 0.65, 1.0], (0.0, -1.5): [-0.3, -0.31, -1.2]}


def loss_of(loss, z, y):
    if loss == "mean_squared_error":
        return np.mean((z - y) ** 2)
    if loss == "binary_cross_entropy":
        return np.mean(naive.softplus(z[..., 0]) - y * z[..., 0])
    flat = z.reshape(-1, z.shape[-1])
    return np.mean(np.log(np.sum(np.exp(flat), axis=1)) - flat[np.arange(len(flat)), y.ravel()])


@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("span", TIMES)
@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
@pytest.mark.parametrize("penalties", [[], [LocalError(2.0), Cubes(0.1, at="path")]])
def test_value_and_gradient_by_a_complex_step(loss, span, controller, penalties):
    times, outputs = TIMES[span], {"mean_squared_error": 2, "binary_cross_entropy": 1, "cross_entropy": 3}[loss]
    head, rng = LinearHead(2, outputs), np.random.default_rng(4)
    objective = Objective(field_of(NET), loss, head=head, tspan=span, controller=controller, times=times, penalties=penalties, rtol=1e-4, atol=1e-4)
    params = np.concatenate([NET.theta, rng.normal(size=head.n_params)])
    shape = (3, len(times))
    y = rng.normal(size=(*shape, 2)) if outputs == 2 else rng.integers(0, max(outputs, 2), size=shape)
    got = objective.value_and_grad(params, NET.y, y, rng=np.random.default_rng(0))
    run = objective.solve(params, NET.y)
    assert run.t.tolist() == times

    def task(p):
        theta, phi = p[: NET.theta.size], p[NET.theta.size :]
        states = states_at(run, frozen(run, lambda t, y: NET.naive(t, y, theta), NET.y), times).transpose(1, 0, 2)
        return loss_of(loss, states @ phi[: 2 * outputs].reshape(2, -1) + phi[2 * outputs :], y)

    assert got.parts["task"] == pytest.approx(task(params), rel=1e-12)
    bare = Objective(field_of(NET), loss, head=head, tspan=span, controller=controller, times=times, rtol=1e-4, atol=1e-4)
    alone = bare.value_and_grad(params, NET.y, y, rng=np.random.default_rng(0))
    for direction in rng.normal(size=(2, params.size)):
        assert_directional(alone.grad @ direction, np.imag(task(params + 1e-30j * direction)) / 1e-30, np.linalg.norm(alone.grad), 1e-10)
    if penalties:  # what they add is what they add to an objective that sees the end alone
        ends = []
        for chosen in ([], penalties):
            end = Objective(field_of(NET), "mean_squared_error", tspan=span, controller=controller, penalties=chosen, rtol=1e-4, atol=1e-4)
            ends.append(end.value_and_grad(NET.theta, NET.y, NET.y, rng=np.random.default_rng(0)))
        assert [got.parts[k] for k in list(got.parts)[1:]] == pytest.approx([ends[1].parts[k] for k in list(ends[1].parts)[1:]], rel=1e-9)
        np.testing.assert_allclose((got.grad - alone.grad)[: NET.theta.size], ends[1].grad - ends[0].grad, rtol=1e-6, atol=1e-9)


def test_predictions_are_at_the_observation_times():
    times, head = [0.0, 0.3, 1.0], LinearHead(2, 5)
    objective = Objective(field_of(NET), "mean_squared_error", head=head, times=times)
    params = objective.init(1)
    z = objective.predict(params, NET.y)
    run = objective.solve(params, NET.y)
    assert z.shape == (3, 3, 5)
    for i in range(3):
        np.testing.assert_allclose(z[:, i], head.value(params[NET.theta.size :], run.y[i]), rtol=1e-14)
    states = Objective(field_of(NET), "mean_squared_error", times=times)
    np.testing.assert_array_equal(states.predict(NET.theta, NET.y)[:, 0], NET.y)


def test_the_end_alone_as_a_time_is_what_none_is():
    one, none = (Objective(field_of(NET), "mean_squared_error", times=times, penalties=[LocalError(1.0)]) for times in ([1.0], None))
    y = np.zeros((3, 2))
    a = one.value_and_grad(NET.theta, NET.y, y[:, None], rng=np.random.default_rng(0))
    b = none.value_and_grad(NET.theta, NET.y, y, rng=np.random.default_rng(0))
    assert a.parts == b.parts and a.nfe_forward == b.nfe_forward
    np.testing.assert_array_equal(a.grad, b.grad)


def test_a_penalty_sees_the_observation_times_and_its_own():
    seen = []

    class Looks(Cubes):
        def evaluate(self, run, variate):
            seen.append(run.t.tolist())
            return super().evaluate(run, variate)

    penalties = [Looks(1.0, at="path", nodes=2), Looks(1.0), LocalError(1.0, "saveat")]
    objective = Objective(field_of(NET), "mean_squared_error", times=[0.1, 1.0], penalties=penalties)
    objective.value_and_grad(NET.theta, NET.y, np.zeros((3, 2, 2)), rng=np.random.default_rng(0))
    assert seen[0] == sorted([0.1, *penalties[0].times((0.0, 1.0), 0.0), 1.0]) and seen[1] == [0.0, 0.1, 1.0]


def test_biased_sampling_without_kept_states(monkeypatch):
    """An adjoint that needs no states of the run is enough: here one that solves again, and keeps them."""

    def again(run, y_bar=None, *, jumps=None, extra=0):
        assert run.states is None and extra == 3
        kept = ao.solve(run.field, run.theta, NET.y, run.tspan, method=run.method, rtol=1e-3, atol=1e-3)
        return discrete(kept, y_bar, jumps=jumps)

    monkeypatch.setitem(ao.adjoint.ADJOINTS, "again", again)
    penalties = [LocalError(2.0, "biased", detach=(), samples=2), JacobianNorm("frobenius", 0.1), LocalError(1.0, detach=())]
    grads = [
        Objective(field_of(NET), "mean_squared_error", penalties=penalties, **options).value_and_grad(
            NET.theta, NET.y, np.zeros((3, 2)), rng=np.random.default_rng(5)
        )
        for options in ({}, {"keep": "none", "adjoint": "again", "adjoint_options": {"extra": 3}})
    ]
    assert grads[0].parts == grads[1].parts
    np.testing.assert_allclose(grads[0].grad, grads[1].grad, rtol=1e-9)


def test_training_by_times():
    objective = Objective(field_of(NET), "mean_squared_error", times=[0.5, 1.0])
    y = np.stack([0.5 * NET.y, 0.2 * NET.y], axis=1)
    result = ao.fit(objective, NET.y, y, optimizer=ao.Adam(0.05), steps=30, rng=0, params=NET.theta)
    loss = [objective.value_and_grad(p, NET.y, y, rng=np.random.default_rng(0)).loss for p in (NET.theta, result.params)]
    assert loss[1] < 0.3 * loss[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_labels_without_a_head(compiled):
    """The state itself as logits, at several times."""
    times, labels, rng = [0.3, 1.0], np.array([[0, 1], [1, 1], [0, 0]]), np.random.default_rng(0)
    objective = Objective(field_of(NET), "cross_entropy", times=times, rtol=1e-8, atol=1e-8)
    objective = objective.compiled() if compiled else objective
    direction = rng.normal(size=NET.theta.size)

    def along(s):
        return loss_of("cross_entropy", objective.predict(NET.theta + s * direction, NET.y), labels)

    evaluation = objective.value_and_grad(NET.theta, NET.y, labels, rng=rng)
    assert evaluation.loss == pytest.approx(along(0.0), rel=1e-12)
    assert evaluation.grad @ direction == pytest.approx((along(1e-5) - along(-1e-5)) / 2e-5, rel=1e-6)


def test_bad_times_adjoints_and_targets():
    def make(**options):
        return Objective(field_of(NET), "mean_squared_error", **options)

    for options, message in (
        ({"times": [0.5, 0.2]}, r"times must run from t0 = 0 towards t1 = 1; times\[1\] = 0.2 comes after 0.5"),
        ({"times": [0.5, 1.2]}, "times must lie in tspan"),
        ({"times": [0.5, 0.5]}, "no time twice"),
        ({"times": []}, "at least one time"),
        ({"times": "late"}, "times must be an array of times"),
        ({"adjoint": "magic"}, "unknown adjoint 'magic'; known: discrete"),
        ({"adjoint": ["discrete"]}, "unknown adjoint"),
    ):
        with pytest.raises(InputError, match=message):
            make(**options)
    with pytest.raises(InputError, match="one shape"):
        make(times=[0.5, 1.0]).value_and_grad(NET.theta, NET.y, np.zeros((3, 2)), rng=np.random.default_rng(0))
    labels = Objective(field_of(NET), "cross_entropy", times=[0.5, 1.0])
    for bad in (np.zeros(3, int), np.zeros((3, 3), int)):
        with pytest.raises(InputError, match=r"targets must begin with samples and observation times, \(3, 2\)"):
            labels.value_and_grad(NET.theta, NET.y, bad, rng=np.random.default_rng(0))


def test_config_tells_them_apart():
    options = ({}, {"times": [1.0]}, {"times": [0.5, 1.0]}, {"adjoint_options": {"a": 1}})
    variants = [Objective(field_of(NET), "mean_squared_error", **o).config() for o in options]
    assert all(a != b for k, a in enumerate(variants) for b in variants[:k])
    assert all(json.loads(json.dumps(v)) == v for v in variants)
