"""Every method proves itself: order conditions by generated rooted trees, both ends, published forms, typos."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import DOP853 as SCIPY_DOP853
from scipy.integrate import RK23, RK45
from scipy.integrate._ivp import dop853_coefficients as scipy_dop853
from scipy.optimize import brentq

from adaptode.errors import InputError
from adaptode.tableau import (
    BS32,
    DOP853,
    DOPRI5,
    DOPRI5_SHAMPINE,
    EULER,
    METHODS,
    RK4,
    TSIT5,
    Tableau,
    get_tableau,
)

ALL = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
ADAPTIVE = pytest.mark.parametrize("method", [m for m in METHODS.values() if m.adaptive], ids=lambda m: m.name)
KEYS = ("A", "b", "c", "e", "dense", "e_low", "extra_A", "extra_c")
EMBEDDED = {"DOP853": (5, 3)}  # orders of b - e and b - e_low, where the estimate's is another
TYPO = 1e-10


def tolerance(method):
    """Rounding; every typo of 1e-10 must stand out against it, also among the small weights of high orders."""
    return 2e-14 if method.order < 8 else 1e-14


@functools.cache
def trees(order):
    """All rooted trees with that many nodes; a tree is the sorted tuple of its root's subtrees."""
    if order == 1:
        return {()}
    return {tuple(sorted(grown)) for tree in trees(order - 1) for grown in with_a_leaf_more(tree)}


def with_a_leaf_more(tree):
    yield (*tree, ())
    for k, child in enumerate(tree):
        for grown in with_a_leaf_more(child):
            yield (*tree[:k], tuple(sorted(grown)), *tree[k + 1 :])


@functools.cache
def nodes(tree):
    return 1 + sum(nodes(child) for child in tree)


@functools.cache
def density(tree):
    return nodes(tree) * np.prod([density(child) for child in tree], dtype=float)


def stage_weights(A):
    """tree -> (s,) elementary weights of the stages: for each child of the root, A times the child's."""

    @functools.cache
    def below(tree):
        return A @ of(tree)

    @functools.cache
    def of(tree):
        product = np.ones(len(A))
        for child in tree:
            product = product * below(child)
        return product

    return of


def order_defect(A, weights, order, theta=1.0, of=None):
    """The largest violation of the conditions of exactly that order: sum_i w_i Phi_i = theta^order / density."""
    of = of or stage_weights(A)
    return max(abs(weights @ of(tree) - theta**order / density(tree)) for tree in trees(order))


def all_stages(A, c, extra_A, extra_c):
    """A (S, S) and c (S,) with the extra stages last."""
    s = len(A)
    whole = np.zeros((s + len(extra_c),) * 2)
    whole[:s, :s], whole[s:] = A, extra_A
    return whole, np.concatenate([c, extra_c])


def dense_weights(b, dense, theta):
    """The continuous extension's formula, written again: (S,)."""
    s, total = len(b), dense.shape[1]
    powers = [1, theta, theta * (1 - theta), theta**2 * (1 - theta)][: len(dense)]
    w = (theta * (1 - theta)) ** 2 * (powers @ dense)
    w += theta**2 * (3 - 2 * theta) * np.concatenate([b, np.zeros(total - s)])
    w[0] += theta * (theta - 1) ** 2
    w[s - 1] += theta**2 * (theta - 1)
    return w


def defect(A, b, c, e, dense, e_low, extra_A, extra_c, method, thetas=(0.35, 0.8)):
    """The largest violation of anything a tableau promises."""
    A, c = all_stages(A, c, extra_A, extra_c)
    s, of = len(b), stage_weights(A)
    parts = [np.max(np.abs(A.sum(axis=1) - c)), abs(e.sum())]

    def conditions(weights, order, theta=1.0):
        weights = np.concatenate([weights, np.zeros(len(A) - len(weights))])
        parts.extend(order_defect(A, weights, p, theta, of) for p in range(1, order + 1))

    conditions(b, method.order)
    embedded = EMBEDDED.get(method.name, (method.error_order,))
    for weights, order in zip((e, e_low), embedded, strict=False):
        conditions(b - weights, order)
    for theta in thetas:
        conditions(dense_weights(b, dense, theta), method.dense_order, theta)
    if method.fsal:
        parts.append(np.max(np.abs(A[s - 1, :s] - b)))
    return max(parts)


def arrays(method):
    return {key: np.array(getattr(method, key)) for key in KEYS}


def test_the_trees_are_all_the_trees():
    assert [len(trees(p)) for p in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]  # OEIS A000081
    assert density((((),), ())) == 4 * 2  # root with a leaf and a chain of two


@ALL
def test_keeps_every_promise(method):
    assert defect(**arrays(method), method=method, thetas=np.linspace(0.05, 0.95, 19)) < tolerance(method)


@ALL
def test_is_not_of_a_higher_order(method):
    assert order_defect(method.A, method.b, method.order + 1) > 1e-5
    A, p = all_stages(method.A, method.c, method.extra_A, method.extra_c)[0], method.dense_order + 1
    assert max(order_defect(A, method.weights(theta), p, theta) for theta in (0.35, 0.8)) > 1e-5


@ADAPTIVE
def test_the_embedded_method_is_not_of_a_higher_order(method):
    orders = EMBEDDED.get(method.name, (method.error_order,))
    for weights, order in zip((method.e, method.e_low), orders, strict=False):
        assert order_defect(method.A, method.b - weights, order + 1) > 1e-5


@ALL
def test_any_planted_typo_is_seen(method):
    for key, array in arrays(method).items():
        for index in np.ndindex(array.shape):
            if key == "A" and index[0] <= index[1] or key == "extra_A" and index[0] + method.stages <= index[1]:
                continue
            typed = arrays(method)
            typed[key][index] += TYPO
            if key == "e" and not method.adaptive:
                continue
            assert defect(**typed, method=method) > 10 * tolerance(method), (key, index)


@ALL
def test_two_typos_that_cancel_in_the_row_sum_are_seen(method):
    for i in range(2, method.stages):
        for j in range(i - 1):
            typed = arrays(method)
            typed["A"][i, j] += TYPO
            typed["A"][i, j + 1] -= TYPO
            assert defect(**typed, method=method) > 10 * tolerance(method), (i, j)


@ALL
def test_the_dense_weights_meet_both_ends_exactly(method):
    s, P = method.stages, method.P
    total, degree = s + method.extra_stages, P.shape[1]
    first, last = np.eye(total)[0], np.eye(total)[s - 1]
    np.testing.assert_array_equal(method.weights(0.0), np.zeros(total))
    np.testing.assert_array_equal(method.weights(1.0), [*method.b, *np.zeros(method.extra_stages)])
    slope_at_0, slope_at_1 = P[:, 0], P @ np.arange(1.0, degree + 1)
    if s > 1:
        np.testing.assert_array_equal(slope_at_0, first)
        np.testing.assert_allclose(slope_at_1, last, atol=1e-15 * max(100, np.abs(P).max()))
    else:
        assert slope_at_0 == slope_at_1 == 1.0


@given(name=st.sampled_from(sorted(METHODS)), theta=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_weights_are_the_polynomial_P_for_one_theta_and_for_many(name, theta):
    method = METHODS[name]
    theta = np.array(theta)
    powers = theta[:, np.newaxis] ** np.arange(1, method.P.shape[1] + 1)
    many = method.weights(theta)
    assert many.shape == (theta.size, method.stages + method.extra_stages)
    np.testing.assert_allclose(many, powers @ method.P.T, atol=1e-15 * max(100, np.abs(method.P).max()))
    np.testing.assert_allclose(many, [dense_weights(method.b, method.dense, x) for x in theta], atol=1e-13)
    for one, row in zip(theta, many, strict=True):
        np.testing.assert_array_equal(method.weights(float(one)), row)


@pytest.mark.parametrize(("ours", "theirs"), [(DOPRI5, RK45), (BS32, RK23)], ids=["RK45", "RK23"])
def test_scipy_has_the_same_numbers(ours, theirs):
    s = len(theirs.B)
    np.testing.assert_array_equal(ours.A[:s, : s - 1], theirs.A[:, : s - 1])
    np.testing.assert_array_equal(ours.b[:s], theirs.B)
    np.testing.assert_array_equal(ours.c[:s], theirs.C)
    np.testing.assert_allclose(ours.e, -theirs.E, rtol=1e-15)  # SciPy's E is bhat - b
    np.testing.assert_allclose(ours.P[:, : theirs.P.shape[1]], theirs.P, atol=1e-14)
    np.testing.assert_array_equal(ours.P[:, theirs.P.shape[1] :], 0.0)
    assert (ours.order, ours.error_order) == (theirs.order, theirs.error_estimator_order)


def test_scipy_has_the_same_numbers_of_dop853():
    A, c = all_stages(DOP853.A, DOP853.c, DOP853.extra_A, DOP853.extra_c)
    for ours, theirs in (
        (A, scipy_dop853.A),
        (c, scipy_dop853.C),
        (DOP853.b[:-1], scipy_dop853.B),
        (DOP853.e, scipy_dop853.E5),
        (DOP853.dense, scipy_dop853.D),
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(DOP853.e_low, scipy_dop853.E3, rtol=0, atol=1e-16)  # theirs subtracts after rounding
    assert DOP853.b[-1] == 0.0
    assert (DOP853.order, DOP853.error_order) == (SCIPY_DOP853.order, SCIPY_DOP853.error_estimator_order)


@pytest.mark.parametrize("theta", np.linspace(0, 1, 7))
def test_tsit5_has_the_published_interpolant(theta):
    t = theta
    published = [  # Tsitouras 2011
        -1.0530884977290216 * t * (t - 1.3299890189751412) * (t**2 - 1.4364028541716351 * t + 0.7139816917074209),
        0.1017 * t**2 * (t**2 - 2.1966568338249754 * t + 1.2949852507374631),
        2.490627285651252793 * t**2 * (t**2 - 2.38535645472061657 * t + 1.57803468208092486),
        -16.54810288924490272 * (t - 1.21712927295533244) * (t - 0.61620406037800089) * t**2,
        47.37952196281928122 * (t - 1.203071208372362603) * (t - 0.658047292653547382) * t**2,
        -34.87065786149660974 * (t - 1.2) * (t - 0.666666666666666667) * t**2,
        2.5 * (t - 1) * (t - 0.6) * t**2,
    ]
    np.testing.assert_allclose(TSIT5.weights(theta), published, atol=1e-14)


def test_tsit5_has_the_published_numbers():
    bhat = [
        0.09468075576583945,
        0.009183565540343254,
        0.4877705284247616,
        1.234297566930479,
        -2.7077123499835256,
        1.866628418170587,
        1 / 66,
    ]
    printed = [
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
    ]
    np.testing.assert_allclose(TSIT5.b - TSIT5.e, bhat, rtol=1e-14)
    np.testing.assert_allclose(TSIT5.e[:6], -np.array(printed), rtol=1e-13)
    wrong = np.array(TSIT5.e)
    wrong[-1] *= -1  # the sign as the paper prints it
    assert abs(wrong.sum()) > 0.03
    assert TSIT5.c[4] == 0.9800255409045097 and TSIT5.A[5, 1] == -12.92096931784711


def test_dopri5_has_shampines_midpoint_and_hairers_error_weights():
    middle = [
        6025192743 / 30085553152 / 2, 0, 51252292925 / 65400821598 / 2, -2691868925 / 45128329728 / 2,
        187940372067 / 1594534317056 / 2, -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2,
    ]  # fmt: skip
    np.testing.assert_allclose(DOPRI5.weights(0.5), middle, atol=1e-15)
    hairer = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]
    np.testing.assert_array_equal(DOPRI5.e, hairer)
    np.testing.assert_allclose(DOPRI5_SHAMPINE.e, DOPRI5.e * (2 / 3), rtol=1e-15)
    np.testing.assert_array_equal(DOPRI5_SHAMPINE.P, DOPRI5.P)


def test_rk4_and_euler_have_the_textbook_extensions():
    third = 1 / 3
    cubic = [[1, -1.5, 2 * third, 0], [0, 1, -2 * third, 0], [0, 1, -2 * third, 0], [0, -0.5, 2 * third, 0]]
    np.testing.assert_allclose(RK4.P, cubic, atol=1e-15)
    np.testing.assert_array_equal(EULER.P, [[1, 0, 0, 0]])


@ALL
def test_the_stiffness_constant_is_the_real_stability_interval(method):
    powers = [np.linalg.matrix_power(method.A, k) @ np.ones(method.stages) for k in range(method.stages)]
    moments = [method.b @ power for power in powers]

    def growth(x):  # |R(-x)| - 1 with R(z) = 1 + sum_k b A^k 1 z^(k+1)
        return abs(1.0 + sum(m * (-x) ** (k + 1) for k, m in enumerate(moments))) - 1.0

    outside = next(x for x in np.arange(0.505, 8.0, 0.01) if growth(x) > 1e-9)
    edge = brentq(growth, outside - 0.01, outside)
    assert method.stiffness_constant == pytest.approx(edge, abs=1e-4)


def test_stiffness_pairs():
    assert [m.stiffness_pair for m in METHODS.values()] == [
        (5, 6),
        (5, 6),
        (5, 6),
        None,
        (11, 12),
        (1, 2),
        None,
    ]


@ALL
def test_coefficients_are_what_a_kernel_takes(method):
    for dtype in (np.float64, np.float32, np.complex128):
        k = method.coefficients(dtype)
        assert k is method.coefficients()
        A, c = all_stages(method.A, method.c, method.extra_A, method.extra_c)
        for key, expected in (("A", A), ("c", c), *((key, getattr(method, key)) for key in ("b", "e", "e_low", "dense"))):
            array = getattr(k, key)
            assert array.dtype == np.float64 and array.flags.c_contiguous and array.flags.writeable
            np.testing.assert_array_equal(array, expected)
            assert not np.shares_memory(array, getattr(method, key))
        assert (k.pair_i, k.pair_j) == (method.stiffness_pair or (-1, -1))
        assert (k.constant, k.fsal, k.adaptive) == (method.stiffness_constant, method.fsal, method.adaptive)
        assert k.error_order == method.error_order and type(k.fsal) is type(k.adaptive) is bool
    with pytest.raises(InputError, match="float16"):
        method.coefficients(np.float16)


@ALL
def test_arrays_are_read_only_also_in_copies(method):
    for twin in (method, copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        for key in KEYS:
            np.testing.assert_array_equal(getattr(twin, key), getattr(method, key))
            with pytest.raises(ValueError, match="read-only"):
                getattr(twin, key)[...] = 0.0
    with pytest.raises(AttributeError):
        method.order = 7


def test_fsal_and_adaptive():
    assert [m.fsal for m in METHODS.values()] == [True, True, True, True, True, False, False]
    assert [m.adaptive for m in METHODS.values()] == [True, True, True, True, True, False, False]
    assert [m.estimates for m in METHODS.values()] == [1, 1, 1, 1, 2, 1, 1]
    assert [m.extra_stages for m in METHODS.values()] == [0, 0, 0, 0, 3, 0, 0]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("tsit5", TSIT5),
        ("TSIT5", TSIT5),
        ("dopri5", DOPRI5),
        ("RK45", DOPRI5),
        ("rk23", BS32),
        ("bs32", BS32),
        ("euler", EULER),
        ("rk4", RK4),
        ("DOP853", DOP853),
        ("dop853", DOP853),
    ]
    + [("Dopri5Shampine", DOPRI5_SHAMPINE), ("dopri5_shampine", DOPRI5_SHAMPINE), ("Dopri5_Shampine", DOPRI5_SHAMPINE), (TSIT5, TSIT5)],
)
def test_lookup(name, method):
    assert get_tableau(name) is method


@pytest.mark.parametrize("name", ["radau", "", None, 5])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(InputError, match="Tsit5, Dopri5, Dopri5_Shampine, BS32, DOP853, RK4, Euler"):
        get_tableau(name)


def heun(**changed):
    """A user's own tableau: Heun's method with Euler embedded."""
    given = {
        "name": "Heun",
        "A": [[0, 0], [1, 0]],
        "b": [0.5, 0.5],
        "c": [0, 1],
        "e": [-0.5, 0.5],
        "dense": [0, 0],
        "order": 2,
        "error_order": 1,
    }
    given |= {"fsal": False, "stiffness_pair": None, "stiffness_constant": 2.0, "dense_order": 2, "citation": "HNW93"}
    return Tableau(**(given | changed))


def test_a_tableau_of_ones_own():
    method = heun()
    assert defect(**arrays(method), method=method) < tolerance(method)
    assert method.A.dtype == np.float64 and method.adaptive and method.stages == 2
    assert method.dense.shape == (1, 2) and method.extra_A.shape == (0, 2) and method.estimates == 1


def test_a_tableau_of_ones_own_with_more_of_everything():
    """An extra stage at the middle, and a second estimate."""
    more = {"extra_A": [[0.25, 0.25, 0]], "extra_c": [0.5], "dense": [[0, 0, 0], [1, 1, -2]], "e_low": [0.5, -0.5]}
    method = heun(**more)
    assert (method.stages, method.extra_stages, method.estimates) == (2, 1, 2)
    assert defect(**arrays(method), method=method) < tolerance(method)
    np.testing.assert_allclose(method.weights(0.5).sum(), 0.5, rtol=1e-15)
    assert method.P.shape == (3, 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"A": [[0, 0], [1.001, 0]]}, "row of A"),
        ({"A": [[0, 1], [1, 0]]}, "lower triangular"),
        ({"A": [[0.0, 0, 0], [1, 0, 0]]}, "same number of stages"),
        ({"dense": [0.0]}, "same number of stages"),
        ({"dense": np.empty((0, 2))}, "same number of stages"),
        ({"dense": [0.0, 1e-9]}, "row of dense must sum to 0"),
        ({"e_low": [0.0]}, "e_low must be"),
        ({"e_low": [0.5, 0.5]}, "e_low = b - bhat must sum to 0"),
        ({"extra_c": [0.5], "dense": np.zeros(3)}, "extra_A"),
        ({"extra_c": [0.5], "extra_A": [[0.5, 0, 0]]}, "dense must be"),
        ({"extra_c": [0.5], "extra_A": [[0.5, 0, 0.0]], "dense": np.zeros(3), "e_low": [0, 0, 0]}, "e_low must be"),
        ({"extra_c": [0.5], "extra_A": [[0.4, 0, 0]], "dense": np.zeros(3)}, "row of A"),
        ({"extra_c": [0.5], "extra_A": [[0.4, 0, 0.1]], "dense": np.zeros(3)}, "lower triangular"),
        ({"b": [0.5, 0.4]}, "b must sum to 1"),
        ({"b": [0.5, np.nan]}, "b must sum to 1"),
        ({"e": [0.5, 0.5]}, "sum to 0"),
        ({"fsal": True}, "fsal"),
        ({"stiffness_pair": (0, 1)}, "equal c"),
        ({"stiffness_pair": (1, 1)}, "i < j"),
        ({"stiffness_pair": (0, 2)}, "i < j"),
    ],
)
def test_a_mistyped_tableau_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        heun(**changed)


def test_print_draws_the_butcher_array():
    assert str(BS32) == "\n".join(
        [
            "BS32: order 3(2), 4 stages, FSAL  [BS89]",
            "  0 |",
            "1/2 |   1/2",
            "3/4 |     0   3/4",
            "  1 |   2/9   1/3  4/9",
            "----+-----------------------",
            "  b |   2/9   1/3  4/9     0",
            "  e | -5/72  1/12  1/9  -1/8",
        ]
    )
    assert "-12.921" in str(TSIT5) and "/" not in str(TSIT5)
    lines = str(DOP853).splitlines()
    assert lines[0] == "DOP853: order 8(7, of two estimates), 13 stages and 3 for dense output, FSAL  [HNW93]"
    assert [line.split("|")[0].strip() for line in lines[-7:] if "|" in line] == ["b", "e", "e_low", "0.1", "0.2", "0.777778"]
    assert len(lines) == 1 + 13 + 1 + 3 + 1 + 3 and lines[-1].endswith("2.94751  -9.15096")
    assert repr(RK4) == "<Tableau RK4>" and "\n  e" not in str(RK4)


def test_numba_is_not_needed():
    code = "import sys, adaptode.tableau, adaptode.checks; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
