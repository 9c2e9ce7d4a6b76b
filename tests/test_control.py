"""Controllers against the formulas of the codes they are named after, and the first step against SciPy's and Hairer's."""

import math
import sys
from dataclasses import FrozenInstanceError

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate._ivp.common import select_initial_step
from strategies import ADAPTIVE

from adaptode.control import (
    CONTROLLERS,
    HAIRER_PI,
    PID,
    SCIPY,
    TORCHDIFFEQ,
    Controller,
    accepts,
    first_step,
    get_controller,
    next_factor,
)
from adaptode.errors import InputError
from adaptode.tableau import METHODS

FORMS = [pytest.param(lambda f: f, id="compiled"), pytest.param(lambda f: getattr(f, "py_func", f), id="python")]
errors = st.floats(1e-12, 1e12) | st.sampled_from([1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2)])
history = st.floats(1e-4, 1.0)


def clip(x, low, high):
    return min(high, max(low, x))


# What each code does to h, from its source, for a fifth-order method with an error estimate of order 4.


def scipy_rk(q, q1, q2, accepted, after_reject):
    if accepted:
        return min(1 if after_reject else 10, 0.9 * q ** (-1 / 5))
    return max(0.2, 0.9 * q ** (-1 / 5))


def dopri5_f(q, q1, q2, accepted, after_reject):
    beta, safe = 0.04, 0.9
    fac11 = q ** (0.2 - beta * 0.75)
    if accepted:
        factor = 1 / clip(fac11 / q1**beta / safe, 1 / 10, 1 / 0.2)
        return min(factor, 1) if after_reject else factor
    return 1 / min(1 / 0.2, fac11 / safe)


def torchdiffeq(q, q1, q2, accepted, after_reject):
    return min(10, max(0.9 / q**0.2, 1 if q < 1 else 0.2))


def julia(beta1, beta2):
    def rule(q, q1, q2, accepted, after_reject):
        q11 = q**beta1
        return 1 / clip(q11 / q1**beta2 / 0.9, 1 / 10, 5) if accepted else 1 / min(5, q11 / 0.9)

    return rule


def pid(q, q1, q2, accepted, after_reject):
    if accepted:
        return clip(0.9 * q ** (-0.49 / 5) * q1 ** (0.34 / 5) * q2 ** (-0.10 / 5), 0.2, 10)
    return max(0.2, 0.9 * q ** (-1 / 5))


PUBLISHED = {
    "scipy": scipy_rk,
    "pi": dopri5_f,
    "torchdiffeq": torchdiffeq,
    "ordinarydiffeq": julia(7 / 50, 2 / 25),
    "ordinarydiffeq-dp5": julia(0.17, 0.04),
    "pid": pid,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTROLLERS)
@given(q=errors, q1=history, q2=history, after_reject=st.booleans())
def test_each_rule_is_the_published_one(form, name, q, q1, q2, after_reject):
    rule = CONTROLLERS[name].rule(4)
    accepted = q < 1 if name == "scipy" else q <= 1
    assert form(accepts)(rule, q) == accepted
    factor = form(next_factor)(rule, q, q1, q2, accepted, after_reject)
    truth = PUBLISHED[name](q, q1, q2, accepted, after_reject)
    if name == "torchdiffeq" and q == 1.0:  # accepted there, and allowed to shrink: here an accepted step never does
        truth = 1.0
    assert factor == pytest.approx(min(1.0, truth) if not accepted else truth, rel=1e-13)


def test_the_rules_are_all_known():
    assert set(PUBLISHED) == set(CONTROLLERS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_is_not_a_number_is_rejected_and_shrinks_all_the_way(form, name):
    rule = CONTROLLERS[name].rule(4)
    for q in (math.nan, math.inf):
        assert not form(accepts)(rule, q)
        assert form(next_factor)(rule, q, 0.5, 0.5, False, True) == rule.shrink
    assert form(next_factor)(rule, 1e300, 0.5, 0.5, False, True) == rule.shrink
    assert form(next_factor)(rule, 0.0, 0.5, 0.5, True, False) == rule.grow
    assert form(next_factor)(rule, 5e-324, 1e-4, 1e-4, True, False) == rule.grow
    assert form(next_factor)(rule, 0.0, 0.5, 0.5, True, True) == (1.0 if rule.never_grow_after_reject else rule.grow)


@given(st.sampled_from(sorted(CONTROLLERS)), st.integers(1, 7), errors, history, history, st.booleans())
def test_every_factor_is_within_its_limits(name, error_order, q, q1, q2, after_reject):
    rule = CONTROLLERS[name].rule(error_order)
    accepted = bool(accepts(rule, q))
    factor = next_factor(rule, q, q1, q2, accepted, after_reject)
    lowest = 1.0 if accepted and rule.never_shrink_accepted else rule.shrink
    assert lowest <= factor <= (rule.grow if accepted else 1.0)
    if accepted and after_reject and rule.never_grow_after_reject:
        assert factor <= 1.0


@given(st.sampled_from(sorted(CONTROLLERS)), st.integers(1, 7))
def test_exponents_scale_with_the_order_of_the_estimate(name, error_order):
    control = CONTROLLERS[name]
    rule, k = control.rule(error_order), error_order + 1
    assert (rule.beta1, rule.beta2, rule.beta3, rule.beta_reject) == (control.i / k, control.p / k, control.d / k, control.reject / k)
    assert (rule.safety, rule.shrink, rule.grow, rule.floor, rule.start) == (0.9, 0.2, 10.0, 1e-4, control.start)


def test_the_signs_of_memory():
    """A growing error shrinks the next step more than a steady one; a falling one less. The third term works against the second."""
    for control in (HAIRER_PI, PID, CONTROLLERS["ordinarydiffeq"]):
        rule = control.rule(4)
        growing, steady, falling = (next_factor(rule, 0.3, q1, 0.3, True, False) for q1 in (0.1, 0.3, 0.9))
        assert growing < steady < falling
        assert next_factor(rule, 0.2, 0.2, 0.2, True, False) > next_factor(rule, 0.4, 0.4, 0.4, True, False)
    rule = PID.rule(4)
    assert next_factor(rule, 0.3, 0.3, 0.1, True, False) > next_factor(rule, 0.3, 0.3, 0.9, True, False)
    # over a steady error the exponents sum: 0.49 − 0.34 + 0.10 = 0.25
    assert next_factor(rule, 0.3, 0.3, 0.3, True, False) == pytest.approx(0.9 * 0.3 ** (-0.25 / 5), rel=1e-13)


def test_with_changes_a_copy():
    loose = PID.with_(safety=0.8, name="loose", overshoot=True)
    assert (loose.safety, loose.name, loose.i, loose.overshoot) == (0.8, "loose", PID.i, True)
    assert PID.safety == 0.9 and not PID.overshoot
    assert loose.rule(4).safety == 0.8 and loose.rule(4).overshoot
    with pytest.raises(FrozenInstanceError):
        PID.safety = 0.5
    with pytest.raises(TypeError):
        PID.with_(speed=3)


@pytest.mark.parametrize(
    "wrong", [{"safety": 0.0}, {"safety": 1.1}, {"shrink": 0.0}, {"shrink": 1.0}, {"grow": 1.0}, {"i": 0.0}, {"reject": 0.0}, {"safety": math.nan}]
)
def test_numbers_that_cannot_control_anything(wrong):
    with pytest.raises(InputError, match="controller 'mine'.*safety.*shrink.*grow"):
        Controller(**{"name": "mine", "i": 1.0, **wrong})


def test_names():
    assert get_controller(None) is HAIRER_PI
    assert get_controller("SciPy") is SCIPY
    mine = Controller("mine", i=0.5)
    assert get_controller(mine) is mine
    assert all(get_controller(name).name == name for name in CONTROLLERS)
    for unknown in ("euler", "", 3, ["pi"]):
        with pytest.raises(InputError, match="unknown controller.*scipy, pi, .*torchdiffeq.*pid, or a Controller"):
            get_controller(unknown)
    assert TORCHDIFFEQ.overshoot and not TORCHDIFFEQ.clip_first_step and SCIPY.clip_first_step


# --- the first step -------------------------------------------------------------------------------------------------------


def ours(f, t0, y0, rtol, atol, direction, order, limit):
    f0, scale = f(t0, y0), atol + rtol * np.abs(y0)

    def d2_at(h0):
        return naive.rms((f(t0 + direction * h0, y0 + direction * h0 * f0) - f0) / scale)

    return first_step(float(naive.rms(y0 / scale)), float(naive.rms(f0 / scale)), d2_at, order, limit)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(ADAPTIVE),
    st.sampled_from([1.0, -1.0]),
    st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 1e-9, 1.0]),
    st.sampled_from([1e-7, 0.01, 10.0, math.inf]),
)
def test_scipys_and_hairers_first_step(seed, method, direction, speed, size, limit):
    rng, order = np.random.default_rng(seed), METHODS[method].error_order
    M, y0 = speed * rng.normal(size=(3, 3)), size * rng.normal(size=3)
    rtol, atol = 1e-5, 1e-7

    def f(t, y):
        return M @ np.tanh(y) + speed * np.cos(t) * y

    h = ours(f, 0.3, y0, rtol, atol, direction, order, limit)
    assert h == pytest.approx(naive.first_step(f, 0.3, y0, f(0.3, y0), rtol, atol, 1 / (order + 1), direction, limit), rel=1e-12)
    theirs = select_initial_step(f, 0.3, y0, 0.3 + direction * limit, math.inf, f(0.3, y0), direction, order, rtol, atol)
    assert h == pytest.approx(theirs, rel=1e-9)  # its limit comes by a subtraction


def test_first_step_by_hand():
    calls = []

    def d2_at(h0):
        calls.append(h0)
        return 8.0 * h0

    assert first_step(2.0, 4.0, d2_at, 4, math.inf) == pytest.approx((0.01 / 8) ** 0.2)
    assert calls == [pytest.approx(0.005)]
    assert first_step(2.0, 4.0, lambda h0: 0.0, 4, math.inf) == pytest.approx((0.01 / 4) ** 0.2)
    assert first_step(1e-4, 4.0, lambda h0: 0.0, 4, math.inf) == pytest.approx(100 * 0.01 * 1e-4 / 4)
    assert first_step(1e-6, 1.0, lambda h0: 0.0, 4, math.inf) == pytest.approx(1e-4)  # no scale: 1e-6, a hundred times
    assert first_step(1.0, 0.0, lambda h0: 0.0, 4, math.inf) == pytest.approx(1e-6)  # no motion at all
    assert first_step(2.0, 4.0, d2_at, 4, 0.01) == 0.01


@pytest.mark.parametrize("limit", [1.0, math.inf])
@pytest.mark.parametrize("d2", [0.0, 1.0, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("d0", [0.0, 1.0, 1e300, math.inf])
@pytest.mark.parametrize("d1", [0.0, 1.0, 1e300, 5e-324, math.inf])
def test_first_step_is_positive_and_finite_whatever_the_norms(d0, d1, d2, limit):
    h = first_step(d0, d1, lambda h0: d2 if math.isfinite(h0) and h0 > 0 else pytest.fail(f"asked for f at h0 = {h0}"), 4, limit)
    assert sys.float_info.min <= h <= limit and math.isfinite(h)
