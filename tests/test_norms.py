"""The scaled norm and its cotangents: against the formula, differences, exact scaling, and whatever is not a number."""

import math

import naive
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import seeds

from adaptode.norms import rms_rows, scaled_rms, scaled_rms_vjp

ROUNDING = 1e-14


def rms_difference(a, b, norm=rms_rows):
    return norm(np.stack([a, b]), 1, 0)


def plain_rms_difference(a, b):
    return rms_difference(a, b, getattr(rms_rows, "py_func", rms_rows))


def draw(seed, n, vector):
    """err, y0, y1 (n,) and atol, rtol of one or n elements."""
    rng = np.random.default_rng(seed)
    size = n if vector else 1
    return (*rng.normal(size=(3, n)), 10 ** rng.uniform(-6, -1, size), 10 ** rng.uniform(-6, -1, size))


def formula(err, y0, y1, atol, rtol):
    return math.sqrt(sum((e / (a + r * max(abs(u), abs(v)))) ** 2 for e, u, v, a, r in zip(err, y0, y1, atol, rtol, strict=True)) / len(err))


sizes = st.integers(1, 13)  # every remainder of the four running sums


@given(seeds, sizes, st.booleans())
def test_the_formula(seed, n, vector):
    err, y0, y1, atol, rtol = draw(seed, n, vector)
    truth = formula(err, y0, y1, *(np.broadcast_to(x, n) for x in (atol, rtol)))
    for norm in (scaled_rms, getattr(scaled_rms, "py_func", scaled_rms)):
        assert norm(err, y0, y1, atol, rtol) == pytest.approx(truth, rel=ROUNDING)
    assert truth == pytest.approx(naive.scaled_error(err, y0, y1, atol, rtol), rel=ROUNDING)
    # a vector tolerance beside a scalar one
    mixed = formula(err, y0, y1, np.full(n, atol[0]), np.broadcast_to(rtol, n))
    assert scaled_rms(err, y0, y1, atol[:1], rtol) == pytest.approx(mixed, rel=ROUNDING)


@given(seeds, sizes)
def test_float32_is_summed_in_double(seed, n):
    err, y0, y1, atol, rtol = draw(seed, n, False)
    narrow = [x.astype(np.float32) for x in (err, y0, y1)]
    assert scaled_rms(*narrow, atol, rtol) == scaled_rms(*(x.astype(np.float64) for x in narrow), atol, rtol)
    a, b = narrow[:2]
    assert rms_difference(a, b) == rms_difference(a.astype(np.float64), b.astype(np.float64))


@given(seeds, sizes, st.sampled_from(["err", "y0", "y1"]), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_one_entry_that_is_not_finite_rejects(seed, n, where, bad, data):
    """Not even an infinite y1, which makes the scale infinite and err/s zero, is hidden."""
    err, y0, y1, atol, rtol = draw(seed, n, False)
    arrays = {"err": err, "y0": y0, "y1": y1}
    arrays[where][data.draw(st.integers(0, n - 1))] = bad
    with np.errstate(all="ignore"):  # NumPy's own arithmetic warns where compiled code does not
        q = scaled_rms(*arrays.values(), atol, rtol)
    assert not q <= 1.0 and not math.isfinite(q)


def test_overflow_of_the_squares_rejects_too():
    ones = np.ones(3)
    with np.errstate(over="ignore"):
        assert scaled_rms(1e300 * ones, ones, ones, np.array([1e-6]), np.array([1e-6])) == math.inf


@given(seeds, sizes, st.booleans(), st.integers(-100, 100))
def test_powers_of_two_scale_exactly(seed, n, vector, power):
    err, y0, y1, atol, rtol = draw(seed, n, vector)
    k = 2.0**power
    q = scaled_rms(err, y0, y1, atol, rtol)
    assert scaled_rms(k * err, k * y0, k * y1, k * atol, rtol) == q
    assert scaled_rms(k * err, y0, y1, atol, rtol) == k * q
    assert rms_difference(k * y0, k * y1) == k * rms_difference(y0, y1)


@given(seeds, sizes)
def test_the_sum_of_differences(seed, n):
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    for norm in (rms_difference, plain_rms_difference):
        assert norm(a, b) == pytest.approx(float(np.sqrt(np.mean((a - b) ** 2))), rel=ROUNDING)
    assert rms_difference(a, a) == 0.0
    a[-1] = np.nan
    assert math.isnan(rms_difference(a, b))


def test_nothing_has_norm_zero():
    empty, one = np.empty(0), np.ones(1)
    assert scaled_rms(empty, empty, empty, one, one) == 0.0 and rms_difference(empty, empty) == 0.0


def cotangents(err, y0, y1, atol, rtol, q_bar, python=False, start=0.0):
    bars = [np.full_like(err, start) for _ in range(3)]
    q = scaled_rms(err, y0, y1, atol, rtol)
    call = getattr(scaled_rms_vjp, "py_func", scaled_rms_vjp) if python else scaled_rms_vjp
    call(err, y0, y1, atol, rtol, q, q_bar, *bars)
    return bars


@pytest.mark.parametrize("python", [False, True])
@given(seed=seeds, n=sizes, vector=st.booleans())
def test_cotangents_by_complex_step_off_the_ties(python, seed, n, vector):
    err, y0, y1, atol, rtol = draw(seed, n, vector)
    assume(np.min(np.abs(np.abs(y0) - np.abs(y1))) > 1e-8)
    for k, bar in enumerate(cotangents(err, y0, y1, atol, rtol, 0.7, python)):

        def value(x, k=k):
            arguments = [err, y0, y1]
            arguments[k] = x
            return 0.7 * naive.scaled_error(*arguments, atol, rtol)

        truth = naive.complex_gradient(value, (err, y0, y1)[k])
        np.testing.assert_allclose(bar, truth, rtol=1e-11, atol=1e-13 * np.max(np.abs(truth), initial=1e-30))


@given(seeds, sizes)
def test_cotangents_are_added_and_linear(seed, n):
    arguments = draw(seed, n, False)
    one, two = cotangents(*arguments, 1.0), cotangents(*arguments, -2.0, start=5.0)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, 5.0 - 2.0 * a, rtol=1e-13, atol=1e-12 * np.max(np.abs(a), initial=0))


@given(seeds, sizes)
def test_the_gradient_along_a_common_scaling_is_zero(seed, n):
    """With atol = 0 the norm is homogeneous of degree 0 in (err, y0, y1)."""
    err, y0, y1, _, rtol = draw(seed, n, False)
    bars = cotangents(err, y0, y1, np.zeros(1), rtol, 1.0)
    parts = [float(x @ bar) for x, bar in zip((err, y0, y1), bars, strict=True)]
    assert abs(sum(parts)) <= 1e-13 * max(map(abs, parts))


def test_ties_go_to_y0():
    err, y = np.array([0.3, -0.2, 0.1]), np.array([1.0, -2.0, 0.0])
    atol, rtol = np.array([0.1]), np.array([0.5])
    err_bar, y0_bar, y1_bar = cotangents(err, y, -y, atol, rtol, 1.0)
    assert not y1_bar.any()
    s = atol + rtol * np.abs(y)
    q = formula(err, y, -y, np.repeat(atol, 3), np.repeat(rtol, 3))
    np.testing.assert_allclose(y0_bar, -(err**2) / s**3 / (3 * q) * rtol * np.sign(y), rtol=1e-13)
    np.testing.assert_allclose(err_bar, err / s**2 / (3 * q), rtol=1e-13)
    assert y0_bar[2] == 0.0  # both zero: |y| has no slope either way


def test_no_gradient_at_the_minimum_and_none_without_a_cotangent():
    zero, one = np.zeros(3), np.ones(1)
    for err, q_bar in ((zero, 1.0), (np.ones(3), 0.0)):
        for bar in cotangents(err, np.ones(3), np.full(3, 2.0), one, one, q_bar, start=4.0):
            np.testing.assert_array_equal(bar, 4.0)


def test_float32_cotangents():
    arguments = draw(1, 7, False)
    narrow = [x.astype(np.float32) for x in arguments[:3]]
    for a, b in zip(cotangents(*arguments, 1.0), cotangents(*narrow, *arguments[3:], 1.0), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


@given(seeds, sizes, st.booleans())
def test_complex_states_by_their_moduli(seed, n, vector):
    err, y0, y1, atol, rtol = draw(seed, n, vector)
    turn = np.exp(2j * np.pi * np.random.default_rng([seed, 1]).uniform(size=(3, n)))
    err, y0, y1 = turn * (err, y0, y1)
    truth = formula(*np.abs((err, y0, y1)), *(np.broadcast_to(x, n) for x in (atol, rtol)))
    difference = float(np.sqrt(np.mean(np.abs(y0 - y1) ** 2)))
    for norm, distance in ((scaled_rms, rms_difference), (getattr(scaled_rms, "py_func", scaled_rms), getattr(rms_difference, "py_func", rms_difference))):
        assert norm(err, y0, y1, atol, rtol) == pytest.approx(truth, rel=ROUNDING)
        assert distance(y0, y1) == pytest.approx(difference, rel=ROUNDING)


@given(seeds, sizes, st.sampled_from(["err", "y0", "y1"]), st.sampled_from([complex(np.nan, 0), complex(0, np.inf), complex(-np.inf, np.nan)]))
def test_one_complex_entry_that_is_not_finite_rejects(seed, n, where, bad):
    err, y0, y1, atol, rtol = draw(seed, n, False)
    arrays = {name: x + 0j for name, x in (("err", err), ("y0", y0), ("y1", y1))}
    arrays[where][seed % n] = bad
    q = scaled_rms(*arrays.values(), atol, rtol)
    assert not q <= 1.0 and not math.isfinite(q)


@given(seeds, sizes)
def test_complex_numbers_without_an_imaginary_part_are_real_ones(seed, n):
    err, y0, y1, atol, rtol = draw(seed, n, False)
    assert scaled_rms(err + 0j, y0 + 0j, y1 + 0j, atol, rtol) == scaled_rms(err, y0, y1, atol, rtol)
    assert rms_difference(y0 + 0j, y1 + 0j) == rms_difference(y0, y1)
