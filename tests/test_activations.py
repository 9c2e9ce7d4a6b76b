"""Activations against 60-digit arithmetic, their slopes and curvatures against complex steps and differences, and every edge of the floats."""

import math

import mpmath
import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptode.activations import (
    CODES,
    IDENTITY,
    RELU,
    SIGMOID,
    SINE,
    SLOPE_ITSELF,
    SMOOTH,
    SOFTPLUS,
    TANH,
    activate,
    activation_code,
    curvature,
    slopes_of,
    through,
    told_by_value,
)
from adaptode.errors import InputError

mpmath.mp.dps = 60
EPS = np.finfo(np.float64).eps
DTYPES = (np.float64, np.float32)


def both(name, z, kernel=True):
    """(value, slope, curvature) of a named activation on an array."""
    z = np.ascontiguousarray(z)
    y, slope, curve = z.copy(), np.full_like(z, 7.0), np.full_like(z, 7.0)
    call, tell, bend = (f if kernel else getattr(f, "py_func", f) for f in (activate, slopes_of, curvature))
    call(CODES[name], y[None], z[:0], slope[None])
    if told_by_value(CODES[name]):
        tell(CODES[name], y, slope)
    bend(CODES[name], z, y, slope, curve)
    return y, slope, curve


def exact(name, z):
    """(value, slope, curvature) in 60 digits."""
    z = mpmath.mpf(float(z))
    sigma = 1 / (1 + mpmath.exp(-z))
    phi = mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)
    table = {
        "identity": lambda: (z, 1, 0),
        "tanh": lambda: (mpmath.tanh(z), mpmath.sech(z) ** 2, -2 * mpmath.tanh(z) * mpmath.sech(z) ** 2),
        "sigmoid": lambda: (sigma, sigma * (1 - sigma), sigma * (1 - sigma) * (1 - 2 * sigma)),
        "softplus": lambda: (mpmath.log1p(mpmath.exp(z)), sigma, sigma * (1 - sigma)),
        "sine": lambda: (mpmath.sin(z), mpmath.cos(z), -mpmath.sin(z)),
        "gelu": lambda: (z * mpmath.ncdf(z), mpmath.ncdf(z) + z * phi, (2 - z * z) * phi),
        "cube": lambda: (z**3, 3 * z * z, 6 * z),
        "relu": lambda: (max(z, 0), int(z > 0), 0),
    }
    return table[name]()


def ulps(found, truth):
    """|found − truth| in units in the last place of the truth, rounded to found's dtype."""
    spacing = float(np.spacing(np.abs(found.dtype.type(float(truth)))))
    return float(abs(mpmath.mpf(float(found)) - truth)) / spacing if spacing else math.inf


# The whole line: denormals, tiny, where the series and the tails meet, saturation, the ends of the exponential.
MAGNITUDES = np.unique(
    np.concatenate(
        [
            [5e-324, 1e-320, 2.2250738585072014e-308, 1e-200, 1e-17, 1e-9],
            np.logspace(-8, 0, 60),
            np.linspace(0.01, 19, 150),
            np.linspace(19, 21, 41),
            np.nextafter(20.0, [0, 40]),
            np.arange(1, 30) * math.log(2) / 4,
        ]
    )
)
LINE = np.concatenate([-MAGNITUDES[::-1], MAGNITUDES])


def test_tanh_is_within_four_ulp_over_the_whole_line():
    y = both("tanh", LINE)[0]
    worst = max(ulps(found, mpmath.tanh(mpmath.mpf(float(z)))) for z, found in zip(LINE, y, strict=True))
    assert worst <= 4.0
    assert np.all(np.diff(y) >= -4 * EPS) and np.all(np.abs(y) <= 1.0)


@given(st.floats(-25, 25))
def test_tanh_is_within_four_ulp_anywhere_and_odd(z):
    y = both("tanh", np.array([z, -z]))[0]
    assert ulps(y[0], mpmath.tanh(mpmath.mpf(z))) <= 4.0
    assert y[1] == -y[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges_of_tanh_and_sigmoid(dtype):
    big = np.array([20.0, 21.0, 89.0, 710.0, 1e30, np.inf], dtype)
    z = np.concatenate([-big[::-1], big]).astype(dtype)
    y, slope, curve = both("tanh", z)
    np.testing.assert_array_equal(y, np.sign(z))
    assert not slope.any() and not curve.any()
    y, slope, _ = both("sigmoid", z)
    np.testing.assert_array_equal(y[6:], np.where(big < 30, 1 / (1 + np.exp(-big.astype(float))), 1).astype(dtype))
    assert np.all(y[:6] <= 2.1e-9) and np.all(y >= 0) and np.all(slope >= 0)
    if dtype is np.float64:  # e^−z down to e^−700, and no less than that beyond
        assert 0 < y[0] == y[1] == y[2] < 1.1e-304


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_nan_is_kept_and_touches_nothing_else(name, dtype):
    z = np.array([0.5, np.nan, -0.5, np.nan, 1.5], dtype)
    y, slope, curve = both(name, z)
    assert np.isnan(y).tolist() == np.isnan(z).tolist()
    clean = both(name, z[::2].copy())
    np.testing.assert_array_equal(y[::2], clean[0])
    np.testing.assert_array_equal(slope[::2], clean[1])
    if name not in ("identity", "relu"):
        assert np.isnan(slope[1]) and np.isnan(curve[1])
    np.testing.assert_array_equal(curve[::2], clean[2])


def test_zeros_keep_their_sign_where_the_function_is_odd():
    z = np.array([0.0, -0.0])
    for name in ("identity", "tanh", "sine", "cube"):
        np.testing.assert_array_equal(np.signbit(both(name, z)[0]), [False, True], err_msg=name)
    assert both("sigmoid", z)[0].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(both("softplus", z)[0], math.log(2), rtol=EPS)
    assert both("relu", z)[1].tolist() == [0.0, 0.0]  # the documented slope at the kink


def test_infinities_go_where_the_limits_are():
    z = np.array([-np.inf, np.inf])
    assert both("softplus", z)[0].tolist() == [0.0, np.inf]
    assert both("relu", z)[0].tolist() == [0.0, np.inf]
    assert both("cube", z)[0].tolist() == [-np.inf, np.inf]
    assert both("identity", z)[0].tolist() == [-np.inf, np.inf]
    with np.errstate(invalid="ignore"):
        assert np.isnan(both("sine", z)[0]).all() and np.isnan(both("sine", z, kernel=False)[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_values_slopes_and_curvatures_against_sixty_digits(name, dtype):
    z = np.concatenate([np.linspace(-30, 30, 121), np.linspace(-1, 1, 41), [1e-6, -1e-6]]).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    found = both(name, z)
    for k, (value, truth) in enumerate(zip(found, zip(*(exact(name, x) for x in z), strict=True), strict=True)):
        truth = np.array([float(x) for x in truth])
        # values are good to their own size, but for the cancellations at the zeros of x Φ(x) and sin x; derivatives to that of 1 and z³
        size = np.abs(truth) if k == 0 and name not in ("gelu", "sine") else np.maximum(np.abs(truth), np.where(np.abs(z) > 4, 30, 1))
        np.testing.assert_array_less(np.abs(value - truth), 8 * eps * size + 1e-300, err_msg=f"derivative {k}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_of_sigmoid_and_softplus_keep_their_digits(dtype):
    z = -np.concatenate([np.linspace(1, 80, 80), np.linspace(80, 690, 20) if dtype is np.float64 else [85.0]]).astype(dtype)
    for name in ("sigmoid", "softplus"):
        y, slope, curve = both(name, z)
        for i, x in enumerate(z):
            truth = exact(name, x)
            for found, t in zip((y[i], slope[i], curve[i]), truth, strict=True):
                assert abs(float(found) / float(t) - 1) < 20 * np.finfo(dtype).eps, (name, x)
    up = both("softplus", -z)[0]
    np.testing.assert_allclose(up, [float(exact("softplus", -x)[0]) for x in z], rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", sorted(SMOOTH))
@given(z=st.floats(-8, 8))
def test_slope_and_curvature_are_the_derivatives_of_the_value(name, z):
    y, slope, curve = (float(x[0]) for x in both(name, np.array([z])))
    assert y == pytest.approx(float(np.real(naive.ACTIVATIONS[name](np.array(z + 0j)))), rel=1e-13, abs=1e-13)
    assert slope == pytest.approx(float(np.imag(naive.ACTIVATIONS[name](np.array(z + 1e-30j)))) / 1e-30, rel=1e-12, abs=1e-13)
    h = 1e-4
    nodes = both(name, np.array([z - 2 * h, z - h, z + h, z + 2 * h]))[1]
    assert curve == pytest.approx((nodes[0] - 8 * nodes[1] + 8 * nodes[2] - nodes[3]) / (12 * h), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_rows_are_shifted_first_and_values_alone_are_the_same(name, dtype):
    rng = np.random.default_rng(3)
    z, b = rng.normal(scale=3, size=(7, 19)).astype(dtype), rng.normal(size=19).astype(dtype)
    y, slope, _ = both(name, (z + b).ravel())
    again, alone, slope_again = z.copy(), z.copy(), np.empty_like(z)
    activate(CODES[name], again, b, slope_again)
    activate(CODES[name], alone, b, slope_again[:0])
    np.testing.assert_array_equal(again.ravel(), y)
    np.testing.assert_array_equal(alone, again)
    if not told_by_value(CODES[name]):
        np.testing.assert_array_equal(slope_again.ravel(), slope)
    assert y.dtype == slope.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*CODES, None])
def test_the_way_back_is_the_slope_times_the_cotangent_and_its_sum(name, dtype):
    rng = np.random.default_rng(5)
    z, bar, total = *rng.normal(size=(2, 70, 43)).astype(dtype), np.full(43, np.nan, dtype)  # more than a block of rows, and columns left over
    y, slope = (a.reshape(z.shape) for a in both(name, z.ravel())[:2]) if name else (None, z)
    code = CODES[name] if name else SLOPE_ITSELF
    expected = bar * slope
    through(code, bar, y if name and told_by_value(code) else slope, total)
    np.testing.assert_array_equal(bar, expected)
    np.testing.assert_allclose(total, expected.sum(axis=0), rtol=0, atol=1000 * np.finfo(dtype).eps)
    assert bar.dtype == dtype


@pytest.mark.parametrize("name, bound", [("tanh", 4.0), ("sigmoid", 3.0)])
def test_single_precision_is_accurate_over_the_whole_line(name, bound):
    z = np.concatenate([-np.logspace(-37, 1.9, 1500)[::-1], np.logspace(-37, 1.9, 1500)]).astype(np.float32)
    y = both(name, z)[0]
    assert y.dtype == np.float32
    worst = max(ulps(found, exact(name, x)[0]) for x, found in zip(z, y, strict=True))
    assert worst <= bound
    assert np.all(np.diff(y) >= -bound * np.spacing(np.abs(y[1:]))) and np.all(np.abs(y) <= 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_kernels_as_plain_python_give_the_same_to_rounding(name, dtype):
    z = np.concatenate([np.random.default_rng(4).normal(scale=4, size=60), [0.0, -0.0, np.nan, 1e-300, 25.0, -25.0]]).astype(dtype)
    for a, b in zip(both(name, z), both(name, z, kernel=False), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


def test_a_value_does_not_depend_on_its_place_in_the_array():
    """Vector lanes and the scalar remainder give the same bits."""
    z = np.random.default_rng(5).normal(scale=3, size=37)
    for name in CODES:
        whole = both(name, z)[0]
        one_by_one = np.concatenate([both(name, z[i : i + 1])[0] for i in range(z.size)])
        np.testing.assert_array_equal(whole, one_by_one, err_msg=name)


def test_empty_arrays_and_codes():
    for name in CODES:
        assert both(name, np.empty(0))[0].size == 0
        assert activation_code(name) == CODES[name]
    assert (IDENTITY, TANH, SIGMOID, SOFTPLUS, SINE, RELU) == (0, 1, 2, 3, 4, 7)
    assert "relu" not in SMOOTH and len(SMOOTH) == len(CODES) - 1


@pytest.mark.parametrize("name", ["Tanh", "", None, 3, ["tanh"]])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(InputError, match="unknown activation.*known: identity, tanh.*relu"):
        activation_code(name)
