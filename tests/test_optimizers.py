"""Optimizers against the published updates, written naively."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.errors import InputError
from adaptode.schedules import Cosine, Linear
from adaptode.training.optimizers import SGD, Adam, Optimizer

seeds = st.integers(0, 2**32 - 1)
rates = st.floats(1e-4, 1)
decays = st.floats(0, 0.5)
betas = st.floats(0, 0.999)


def run(optimizer, theta, gradients):
    params, state = np.array(theta), optimizer.init(np.array(theta))
    for step, grad in enumerate(gradients):
        optimizer.update(params, grad, state, step)
    return params, state


@given(seeds, rates, betas, betas, decays, st.integers(1, 12))
def test_adam_is_the_published_algorithm(seed, rate, beta1, beta2, decay, n_steps):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=3)
    gradients = rng.normal(size=(n_steps, 3)) * rng.choice([0, 1e-3, 1, 1e3], size=(n_steps, 3))
    expected = []
    for i in range(3):
        w, m, v = theta[i], 0.0, 0.0
        for t in range(1, n_steps + 1):
            g = gradients[t - 1, i]
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            w = w - rate * (m_hat / (math.sqrt(v_hat) + 1e-8) + decay * w)
        expected.append(w)
    params, _ = run(Adam(rate, beta1, beta2, weight_decay=decay), theta, gradients)
    np.testing.assert_allclose(params, expected, rtol=1e-10, atol=1e-12)


@given(seeds, rates, st.floats(0, 0.99), decays, st.integers(1, 12))
def test_sgd_is_the_published_algorithm(seed, rate, momentum, decay, n_steps):
    rng = np.random.default_rng(seed)
    theta, gradients = rng.normal(size=4), rng.normal(size=(n_steps, 4))
    w, velocity = theta, np.zeros(4)
    for g in gradients:
        velocity = momentum * velocity + g
        w = w - rate * decay * w - rate * velocity
    params, _ = run(SGD(rate, momentum, decay), theta, gradients)
    np.testing.assert_allclose(params, w, rtol=1e-10, atol=1e-12)


@given(seeds, rates, decays)
def test_adam_weight_decay_is_decoupled(seed, rate, decay):
    """The moments do not see the decay, and a weight without gradient shrinks by exactly 1 - rate decay a step."""
    rng = np.random.default_rng(seed)
    theta, gradients = rng.normal(size=5), rng.normal(size=(6, 5))
    gradients[:, 0] = 0
    plain, plain_state = run(Adam(rate), theta, gradients)
    decayed, state = run(Adam(rate, weight_decay=decay), theta, gradients)
    assert all((state[name] == plain_state[name]).all() for name in ("m", "v"))
    assert plain[0] == theta[0]
    assert decayed[0] == pytest.approx(theta[0] * (1 - rate * decay) ** 6, rel=1e-12)


@given(seeds, rates)
def test_adams_first_step_has_the_size_of_its_rate(seed, rate):
    grad = np.random.default_rng(seed).choice([-1e4, -1.0, 0.1, 50.0], size=6)
    params, _ = run(Adam(rate), np.zeros(6), [grad])
    np.testing.assert_allclose(params, -rate * np.sign(grad), rtol=1e-6)


@pytest.mark.parametrize("optimizer", [Adam(Linear(0.1, 0.0, 5)), SGD(Linear(0.1, 0.0, 5), momentum=0.9)])
def test_schedules_are_read_at_the_step(optimizer):
    params, state = np.ones(3), optimizer.init(np.ones(3))
    optimizer.update(params, np.ones(3), state, 0)
    moved = params.copy()
    assert (moved < 1).all()
    optimizer.update(params, np.ones(3), state, 5)
    assert (params == moved).all()


@pytest.mark.parametrize("optimizer", [Adam(0.1, weight_decay=0.1), SGD(0.1, 0.9, 0.1)])
def test_in_place_in_their_dtype(optimizer):
    params, grad = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
    state = optimizer.init(params)
    before = {name: id(array) for name, array in state.items()}
    assert optimizer.update(params, grad, state, 0) is None
    assert {name: id(array) for name, array in state.items()} == before
    assert {array.dtype for array in (params, *state.values())} == {np.dtype("float32")}
    assert (grad == 0.5).all() and (params < 1).all()


def test_descends():
    """Both reach the minimum of a badly scaled quadratic."""
    scales = np.array([1.0, 30.0])
    for optimizer, n in ((Adam(Cosine(0.1, 0.0, 500)), 500), (SGD(0.02, momentum=0.8), 500)):
        params, state = np.array([2.0, -1.0]), optimizer.init(np.zeros(2))
        for step in range(n):
            optimizer.update(params, scales * params, state, step)
        assert np.abs(params).max() < 1e-4


def test_to_dict_is_json_and_tells_settings_apart():
    one, other = Adam(0.1), Adam(Linear(0.1, 0.0, 10))
    assert json.loads(json.dumps(one.to_dict())) == one.to_dict() != other.to_dict()
    assert one.to_dict()["kind"] == "Adam" and SGD(0.1).to_dict()["momentum"] == 0.0


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "fast", None])
@pytest.mark.parametrize("kind", [Adam, SGD])
def test_bad_learning_rates(kind, bad):
    with pytest.raises(InputError):
        kind(bad)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Adam, {"beta1": 1.0}),
        (Adam, {"beta2": -0.1}),
        (Adam, {"beta2": math.nan}),
        (Adam, {"eps": 0.0}),
        (Adam, {"eps": -1e-8}),
        (Adam, {"weight_decay": -1}),
        (Adam, {"weight_decay": "no"}),
        (SGD, {"momentum": 1.0}),
        (SGD, {"weight_decay": math.inf}),
    ],
)
def test_bad_settings(kind, options):
    with pytest.raises(InputError, match=f"{kind.__name__}: {next(iter(options))}"):
        kind(0.1, **options)


def test_the_base_is_abstract():
    with pytest.raises(NotImplementedError):
        Optimizer().init(np.zeros(1))
    with pytest.raises(NotImplementedError):
        Optimizer().update(np.zeros(1), np.zeros(1), {}, 0)
