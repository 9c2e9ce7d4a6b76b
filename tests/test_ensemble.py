"""Ensembles: every trajectory as if it were alone, bit for bit, and whoever fails fails alone."""

import _thread
import math
import sys
import threading
import time

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import adaptode as ao
from adaptode import ensemble, lanes
from adaptode.combine import combine, combine_lanes
from adaptode.control import get_controller, next_time
from adaptode.ensemble import solve_ensemble
from adaptode.errors import FieldError, InputError
from adaptode.fields import MLP, CompiledField, PythonField
from adaptode.independent import RunBatch
from adaptode.norms import scaled_rms, scaled_rms_lanes
from adaptode.solution import Status
from adaptode.solver import solve
from adaptode.tableau import METHODS, Tableau

pytestmark = pytest.mark.compiles  # SIMD lanes around each function


# As ensembles compile it: with other rules for rounding, a lone solve would differ in its last bits.
@numba.njit(error_model="numpy", fastmath={"contract"})
def lorenz(t, y, p, dy):
    dy[0] = p[0] * (y[1] - y[0])
    dy[1] = y[0] * (p[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - p[2] * y[2]


@numba.njit
def troubled(t, y, p, dy):
    """p[0] = 0: y' = -y cos t; 1: blows up at t = 1/y; 2: NaN after t = 0.5; 3: NaN at once; 4: turns without end."""
    kind = p[0]
    if kind == 1.0:
        dy[0] = y[0] * y[0]
    elif kind == 2.0:
        dy[0] = math.nan if t > 0.5 else 1.0
    elif kind == 3.0:
        dy[0] = math.nan
    elif kind == 4.0:
        dy[0] = 1e6 * math.cos(1e6 * t)
    elif kind == 5.0:
        raise ValueError("kind 5")
    else:
        dy[0] = -y[0] * math.cos(t)


def lorenz_parameters(count, seed=0):
    rng = np.random.default_rng(seed)
    P = np.tile([10.0, 28.0, 8 / 3], (count, 1))
    P[:, 1] = rng.uniform(0.5, 40.0, count)
    return rng.normal(0.0, 5.0, (count, 3)), P


def same(a, b, rows=slice(None)):
    """All results of `a` are those of `b` in these rows, bit for bit."""
    for name in ("y", "status", "nfev", "n_accepted", "n_rejected", "t_reached", "_h", "_error"):
        x, y = getattr(a, name), getattr(b, name)[rows]
        assert x.tobytes() == y.tobytes(), name


# --- the same steps as the loop that solves one ---------------------------------------------------------------------------------


NOT_FSAL = Tableau(
    "HeunEuler", A=[[0, 0], [1, 0]], b=[0.5, 0.5], c=[0, 1], e=[-0.5, 0.5], **({"p4": [0, 0]} if hasattr(ao.TSIT5, "p4") else {"dense": [0, 0]}),
    order=2, error_order=1, fsal=False, stiffness_pair=None, stiffness_constant=2.0, dense_order=2, citation="HNW93",
)  # fmt: skip


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "BS32", NOT_FSAL], ids=str)
def test_a_trajectory_takes_the_steps_of_the_loop(method):
    """Bit for bit with a given first step; the rule for the first step rounds in another order, so there to rounding."""
    Y0, P = lorenz_parameters(3)
    times = np.linspace(0.0, 1.0, 7)
    field = CompiledField(lorenz, 3, 3)
    for first in (0.003, None):
        for controller in ("scipy", "pi", "pid", "torchdiffeq"):
            options = {"method": method, "rtol": 1e-4, "atol": 1e-5, "first_step": first, "controller": controller}
            result = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, t_eval=times, **options)
            for j in range(3):
                run = solve(field, P[j], Y0[j : j + 1], (0.0, 1.0), saveat=times, **options)
                assert (result.nfev[j], result.n_accepted[j], result.n_rejected[j]) == (run.nfev, run.n_accepted, run.n_rejected)
                if first is None:
                    np.testing.assert_allclose(result.y[j], run.y[:, 0], rtol=1e-11, atol=1e-11)
                else:
                    assert np.array_equal(result.y[j], run.y[:, 0])


def test_rejections_are_seen_by_the_test_above():
    Y0, P = lorenz_parameters(40)
    result = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, rtol=1e-6, first_step=0.5)
    assert (result.n_rejected > 0).all() and len(set(result.nfev)) > 10


def test_the_kernel_is_the_same_in_plain_python():
    Y0, P = lorenz_parameters(35)
    options = {"rtol": 1e-2, "atol": 1e-2, "t_eval": [0.0, 0.05, 0.1]}
    compiled = solve_ensemble(lorenz, (0.0, 0.1), Y0, P, **options)
    build = lanes.lane_kernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "lane_kernel", lambda *a, copied: build(*a, compiled=False))
        plain = solve_ensemble(lorenz, (0.0, 0.1), Y0, P, **options)
    np.testing.assert_allclose(plain.y, compiled.y, rtol=1e-12, atol=1e-11)  # but for contraction
    assert np.array_equal(plain.nfev, compiled.nfev) and plain.success.all()


@given(st.integers(1, 9), st.integers(1, 13), st.booleans(), st.integers(0, 2**32 - 1))
def test_lanewise_norm_and_sum_have_the_bits_of_the_scalar_ones(n, stages, vector, seed):
    rng = np.random.default_rng(seed)
    width = lanes.LANES
    err, y0, y1, K = rng.normal(size=(n, width)), rng.normal(size=(n, width)), rng.normal(size=(n, width)), rng.normal(size=(stages, n, width))
    h, weights = rng.normal(size=width), rng.normal(size=stages) * (rng.random(stages) < 0.8)
    atol, rtol = (rng.random(n if vector else 1) for _ in range(2))
    q, total = np.empty(width), np.empty(n * width)
    scaled_rms_lanes(err, y0, y1, atol, rtol, np.empty((4, width)), q, width)
    combine_lanes(y0.ravel(), np.tile(h, n), weights, K.reshape(stages, -1), stages, total, n * width)
    for l in range(width):
        one = np.empty(n)
        assert q[l] == scaled_rms(err[:, l].copy(), y0[:, l].copy(), y1[:, l].copy(), atol, rtol)
        combine(y0[:, l].copy(), h[l], weights, 0, K[:, :, l].copy(), stages, one, 0)
        assert np.array_equal(total.reshape(n, width)[:, l], one)


@given(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e-320, 1e-30, 1e-15, 1e-14, 1e-3, 1.0]), st.sampled_from([-1.0, 1.0]), st.booleans())
def test_the_shortcut_of_next_time_changes_nothing(t, scale, direction, after_reject):
    rule = get_controller("scipy").rule(4)
    h = scale * max(abs(t), 1e-300) if scale else 5e-324
    spacing = 10.0 * abs(np.nextafter(t, direction * np.inf) - t)
    expected = math.nan if h < spacing and after_reject else t + direction * max(h, spacing)
    got = next_time(rule, t, h, direction * 1e9, direction, math.inf, after_reject)
    assert got == expected or (math.isnan(got) and math.isnan(expected))
    assert next_time(rule, t, 1e12, direction * 1e9, direction, math.inf, after_reject) == direction * 1e9


# --- alone in any company -------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_results_do_not_depend_on_order_company_or_threads(count, seed):
    Y0, P = lorenz_parameters(count, seed)
    options = {"rtol": 1e-5, "atol": 1e-5, "t_eval": [0.3, 1.0]}
    result = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, threads=1, **options)
    order = np.random.default_rng(seed).permutation(count)
    for threads in (1, 2, 3):
        same(solve_ensemble(lorenz, (0.0, 1.0), Y0[order], P[order], threads=threads, **options), result, order)
    some = order[: max(1, count // 3)]
    same(solve_ensemble(lorenz, (0.0, 1.0), Y0[some], P[some], **options), result, some)


def test_against_a_reference():
    Y0, P = lorenz_parameters(4, 3)
    for method in ("Tsit5", "Dopri5"):
        result = solve_ensemble(lorenz, (0.0, 2.0), Y0, P, method=method, rtol=1e-9, atol=1e-9, t_eval=[0.5, 1.0, 2.0])
        for j in range(4):

            def f(t, y, p=P[j]):
                dy = np.empty(3)
                lorenz.py_func(t, y, p, dy)
                return dy

            exact = solve_ivp(f, (0.0, 2.0), Y0[j], method="DOP853", rtol=1e-12, atol=1e-12, t_eval=[0.5, 1.0, 2.0]).y.T
            np.testing.assert_allclose(result.y[j], exact, atol=1e-5)


def test_backwards_comes_home():
    Y0, P = lorenz_parameters(40)
    there = solve_ensemble(lorenz, (0.0, 0.2), Y0, P, rtol=1e-10, atol=1e-10)
    back = solve_ensemble(lorenz, (0.2, 0.0), there.y[:, 0], P, rtol=1e-10, atol=1e-10, t_eval=[0.2, 0.1, 0.0])
    np.testing.assert_allclose(back.y[:, -1], Y0, rtol=1e-6, atol=1e-6)
    assert np.array_equal(back.y[:, 0], there.y[:, 0])


def test_a_second_call_compiles_nothing():
    Y0, P = lorenz_parameters(2)
    solve_ensemble(lorenz, (0.0, 0.1), Y0, P)
    kernel = lanes.lane_kernel(lorenz, METHODS["Tsit5"], 3, 3)
    solve_ensemble(lorenz, (0.0, 0.1), Y0, P[:1], t_eval=[0.1, 0.1], rtol=[1e-3] * 3, threads=1)
    solve_ensemble(lorenz, (0.1, 0.0), Y0[0], P, controller="pi", max_step=0.05, first_step=1e-3)
    assert lanes.lane_kernel(lorenz, METHODS["Tsit5"], 3, 3) is kernel and len(kernel.signatures) == 1


# --- who fails, fails alone -----------------------------------------------------------------------------------------------------


def test_each_failure_has_its_own_status_and_message():
    """So many that lanes are used again after every kind of failure."""
    kinds = np.array([0, 1, 2, 3, 4] * 60, dtype=float)
    times = [0.25, 0.75, 2.0]
    result = solve_ensemble(troubled, (0.0, 2.0), [1.0], kinds[:, None], t_eval=times, max_steps=2000, threads=2)
    expected = np.array([Status.SUCCESS, Status.NONFINITE, Status.NONFINITE, Status.NONFINITE, Status.MAX_STEPS] * 60)
    expected[1::5] = result.status[1::5]  # a blow-up ends in either
    assert np.array_equal(result.status, expected)
    assert set(result.status[1::5]) <= {Status.NONFINITE, Status.STEP_TOO_SMALL}
    assert np.array_equal(result.success, kinds == 0)
    np.testing.assert_allclose(result.y[::5, :, 0], np.exp(-np.sin([times] * 60)), rtol=1e-2)
    assert np.isfinite(result.y[1::5, :2]).all() and np.isnan(result.y[1::5, 2]).all()
    assert np.isfinite(result.y[2::5, 0]).all() and np.isnan(result.y[2::5, 1:]).all()
    assert np.isnan(result.y[3::5]).all() and (result.nfev[3::5] == 1).all()
    assert (result.n_accepted + result.n_rejected)[4::5].tolist() == [2000] * 60
    np.testing.assert_allclose(result.t_reached[1::5], 1.0, rtol=0.02)
    alone = solve_ensemble(troubled, (0.0, 2.0), [1.0], [[0.0]] * 60, t_eval=times)
    same(alone, result, slice(0, None, 5))
    assert result.message(0) == "the end of the span was reached"
    assert "t = 0.99" in result.message(1) and "|h| = " in result.message(1)
    assert "t = 0.5" in result.message(2) or "t = 0.49" in result.message(2)
    assert "component 0" in result.message(2) and "NaN or inf" in result.message(2)
    assert "at t = 0, the start (component 0)" in result.message(3) and "P[3]" in result.message(3)
    assert "max_steps" in result.message(4) and "2000 attempts" in result.message(4) and result.message(-1) == result.message(299)
    text = str(result)
    assert "300 trajectories of troubled (1 components) by Tsit5 from 0 to 2" in text
    assert "60 SUCCESS" in text and "MAX_STEPS: 4, 9, 14, 19, 24, …" in text and "trajectory 1: " in text and "2 threads" in text
    with pytest.raises(IndexError):
        result.message(300)


def test_what_is_not_filled_is_not_an_answer():
    @numba.njit
    def forgets(t, y, p, dy):
        dy[0] = 1.0

    result = solve_ensemble(forgets, (0.0, 1.0), np.zeros((2, 2)))
    assert (result.status == Status.NONFINITE).all() and "component 1" in result.message(0)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_of_f_passes_through(threads):
    with pytest.raises(ValueError, match="kind 5"):
        solve_ensemble(troubled, (0.0, 1.0), [1.0], [[0.0]] * 50 + [[5.0]], threads=threads)
    assert solve_ensemble(troubled, (0.0, 1.0), [1.0], [[0.0]], threads=threads).success.all()


def test_idle_lanes_are_where_a_function_is_valid():
    @numba.njit
    def picky(t, y, p, dy):
        if y[0] < 0.5 or p[0] != 1.0 or t < 1.0:
            raise ValueError("not here")
        dy[0] = p[0] * y[0]

    assert solve_ensemble(picky, (1.0, 2.0), [[1.0]], [[1.0]]).y[0, 0, 0] == pytest.approx(math.e, rel=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_heard(threads):
    solve_ensemble(troubled, (0.0, 1e-6), [1.0], [[0.0]])
    timer = threading.Timer(0.3, _thread.interrupt_main)
    began = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve_ensemble(troubled, (0.0, 1e9), [1.0], [[0.0]] * 100, max_step=1e-3, max_steps=10**12, threads=threads)
    assert time.perf_counter() - began < 5.0
    assert not [t for t in threading.enumerate() if t.name.startswith("adaptode")]


# --- kinds of functions ---------------------------------------------------------------------------------------------------------


def test_a_function_that_needs_contiguous_arrays():
    @numba.njit
    def linear(t, y, p, dy):
        dy[:] = np.dot(p.reshape(2, 2), y)

    result = solve_ensemble(linear, (0.0, 1.0), [1.0, 0.0], [[0.0, 1.0, -1.0, 0.0], [0.0, 2.0, -2.0, 0.0]], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(result.y[:, 0], [[math.cos(1), -math.sin(1)], [math.cos(2), -math.sin(2)]], atol=1e-6)


def test_a_python_function_goes_through_the_same_loop():
    def f(t, y, p):
        dy = np.empty(3)
        lorenz.py_func(t, y, p, dy)
        return list(dy)

    Y0, P = lorenz_parameters(3)
    options = {"rtol": 1e-5, "t_eval": [0.5, 1.0], "first_step": 0.01}
    slow, fast = (solve_ensemble(g, (0.0, 1.0), Y0, P, **options) for g in (f, lorenz))
    np.testing.assert_allclose(slow.y, fast.y, rtol=1e-11)
    assert np.array_equal(slow.nfev, fast.nfev) and slow.threads == 1
    failed = solve_ensemble(lambda t, y, p: y * np.nan, (0.0, 1.0), [1.0])
    assert failed.status[0] == Status.NONFINITE and "the start" in failed.message(0) and np.isnan(failed.y).all()


def test_a_decorated_function_is_taken_by_its_dispatcher():
    class Decorated:
        dispatcher, name = lorenz, "my lorenz"

    Y0, P = lorenz_parameters(2)
    assert "of my lorenz" in str(solve_ensemble(Decorated(), (0.0, 0.1), Y0, P))


def test_a_function_that_cannot_be_compiled_says_so():
    @numba.njit
    def three(t, y, dy):
        dy[0] = y[0]

    with pytest.raises(FieldError, match="three cannot be compiled"):
        solve_ensemble(three, (0.0, 1.0), [1.0])
    with pytest.raises(InputError, match="adaptode.rhs"):
        solve_ensemble("lorenz", (0.0, 1.0), [1.0])


# --- edges ----------------------------------------------------------------------------------------------------------------------


def test_edges():
    Y0, P = lorenz_parameters(5)
    empty = solve_ensemble(lorenz, (0.0, 1.0), np.empty((0, 3)), np.empty((0, 3)), t_eval=[0.5, 1.0])
    assert empty.y.shape == (0, 2, 3) and len(empty) == 0 and empty.success.all() and "0 trajectories" in str(empty)
    none = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, t_eval=[])
    assert none.y.shape == (5, 0, 3) and none.success.all() and none.n_accepted.min() > 0
    zero = solve_ensemble(lorenz, (1.0, 1.0), Y0, P, t_eval=[1.0, 1.0])
    assert np.array_equal(zero.y, np.stack([Y0, Y0], axis=1)) and zero.success.all() and not zero.nfev.any()
    both = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, t_eval=[0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    assert np.array_equal(both.y[:, 0], Y0) and all(np.array_equal(both.y[:, i], both.y[:, i + 1]) for i in (0, 2, 4))
    shared = solve_ensemble(lorenz, (0.0, 1.0), Y0[0], P)
    same(shared, solve_ensemble(lorenz, (0.0, 1.0), np.tile(Y0[0], (5, 1)), P))
    odd = solve_ensemble(lorenz, (0, 1), np.asfortranarray(Y0[::-1])[::-1].astype(">f8"), P)
    same(odd, solve_ensemble(lorenz, (0.0, 1.0), Y0, P))
    mine = Y0.copy()
    mine.flags.writeable = False
    solve_ensemble(lorenz, (0.0, 0.1), mine, P)
    assert np.array_equal(mine, Y0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"Y0": [[1.0, math.nan, 0.0]]}, r"Y0\[0, 1\] is nan"),
        ({"P": [[1.0, 2.0, math.inf]]}, r"P\[0, 2\] is inf"),
        ({"P": [1.0, 2.0, 3.0]}, r"P\[None, :\]"),
        ({"Y0": np.ones((2, 3)), "P": np.ones((3, 3))}, "got 2 and 3 rows"),
        ({"Y0": np.ones((2, 2, 3))}, r"Y0 must have shape \(M, n\)"),
        ({"Y0": np.ones(3, complex)}, "Y0 must be an array of real numbers"),
        ({"Y0": [[]]}, "at least one component"),
        ({"t_span": (0.0, math.nan)}, "t_span must be finite"),
        ({"t_span": 3.0}, "t_span must be two numbers"),
        ({"t_eval": [0.5, 0.2]}, r"t_eval\[1\] = 0.2 comes after"),
        ({"t_eval": [2.0]}, "t_eval must lie in t_span"),
        ({"rtol": -1.0}, "rtol"),
        ({"atol": [1.0, 1.0]}, r"atol must be a number or have shape \(3,\)"),
        ({"atol": 0.0, "Y0": [0.0, 1.0, 1.0]}, "atol must be positive where y0 is 0"),
        ({"method": "RK4"}, "RK4 has not"),
        ({"first_step": 0.0}, "first_step"),
        ({"max_steps": 0}, "max_steps"),
        ({"threads": 0}, "threads"),
        ({"controller": "pig"}, "unknown controller"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(changes, words):
    arguments = {"t_span": (0.0, 1.0), "Y0": np.ones(3), "P": np.ones((2, 3))} | changes
    with pytest.raises(InputError, match=words):
        solve_ensemble(lorenz, arguments.pop("t_span"), arguments.pop("Y0"), arguments.pop("P"), **arguments)


def test_memory_is_stated_before_it_is_spent(monkeypatch):
    monkeypatch.setattr(ensemble, "available_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"1000 trajectories at 100 output times of 3 components need 2\.\d+ MB \(2\d{6} bytes\).*1 MB are available.*t_eval"):
        solve_ensemble(lorenz, (0.0, 1.0), np.ones(3), np.ones((1000, 3)), t_eval=np.linspace(0, 1, 100), threads=1)
    monkeypatch.undo()
    assert ensemble.available_memory() is None or ensemble.available_memory() > 10**6


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress(capsys, monkeypatch, with_tqdm):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    Y0, P = lorenz_parameters(200)
    loud = solve_ensemble(lorenz, (0.0, 1.0), Y0, P, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "200/200" in err and "4.8 kB" in err
    same(loud, solve_ensemble(lorenz, (0.0, 1.0), Y0, P))
    assert capsys.readouterr().err == ""


# --- rows of a batch, each with its own steps -----------------------------------------------------------------------------------


def fields():
    @numba.njit
    def value(t, y, theta, out):
        for b in range(y.size // 2):
            out[2 * b] = theta[0] * y[2 * b + 1]
            out[2 * b + 1] = -theta[1] * y[2 * b] * math.cos(t)

    mlp = MLP((2, 8, 2), activation="tanh", time="first")
    return {
        "mlp": (mlp, mlp.init(np.random.default_rng(0))),
        "compiled": (CompiledField(value, 2, 2), np.array([2.0, 3.0])),
        "python": (PythonField(lambda t, y, theta: -theta * y**3, 2, 1), np.array([1.5])),
    }


@pytest.mark.parametrize("kind", ["mlp", "compiled", "python"])
def test_rows_of_an_independent_batch_do_not_know_each_other(kind):
    field, theta = fields()[kind]
    rng = np.random.default_rng(1)
    y0 = rng.normal(size=(6, 2)) * [[0.1], [1.0], [3.0], [0.01], [2.0], [0.5]]
    options = {"rtol": 1e-6, "atol": 1e-6, "saveat": [0.5, 1.0]}
    batch = solve(field, theta, y0, (0.0, 1.0), batch="independent", **options)
    order = rng.permutation(6)
    moved = solve(field, theta, y0[order], (0.0, 1.0), batch="independent", **options)
    assert isinstance(batch, RunBatch) and batch.y.shape == (2, 6, 2) and len(batch) == 6
    assert np.array_equal(moved.y, batch.y[:, order]) and np.array_equal(moved.nfev, batch.nfev[order]) and np.array_equal(moved.y1, batch.y1[order])
    assert len(set(batch.nfev)) > 1 and batch.success and (batch.status == 0).all()
    joint = solve(field, theta, y0, (0.0, 1.0), **options)
    np.testing.assert_allclose(batch.y, joint.y, atol=1e-4)
    assert np.array_equal(batch.runs[2].y[:, 0], solve(field, theta, y0[2:3], (0.0, 1.0), **options).y[:, 0])
    assert np.array_equal(batch.sol(0.3), np.stack([run.sol(0.3)[0] for run in batch.runs]))
    assert batch.sol([0.3, 0.4]).shape == (2, 6, 2)
    assert np.array_equal(batch.n_accepted, [run.n_accepted for run in batch.runs]) and batch.n_rejected.shape == (6,)
    assert "6 rows by Tsit5 from 0 to 1" in str(batch) and "6 reached the end" in str(batch)


def test_a_row_that_fails_spoils_no_other():
    field = PythonField(lambda t, y, theta: y**2, 1)
    batch = solve(field, np.empty(0), [[-1.0], [2.0], [0.1]], (0.0, 1.0), saveat=[0.25, 1.0], batch="independent")
    assert not batch.success and [s == 0 for s in batch.status] == [True, False, True] and batch.message.startswith("row 1: ")
    assert np.isnan(batch.y[1, 1]) and np.isfinite(batch.y[:, [0, 2]]).all() and batch.y[0, 1, 0] == pytest.approx(4.0, rel=1e-4)
    with pytest.raises(ao.SolveError, match="row 1") as caught:
        _ = batch.y1
    assert caught.value.run is batch.runs[1]
    with pytest.raises(InputError, match='"joint" or "independent"'):
        solve(field, np.empty(0), [[1.0]], (0.0, 0.1), batch="all")
