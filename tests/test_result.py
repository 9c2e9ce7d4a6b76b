"""The result of solve_ivp: what it says, its pictures, its estimate of the global error, and when it calls a problem stiff."""

import gc
import pickle
import warnings
import weakref

import matplotlib
import numba
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import adaptode as ao
from adaptode.errors import InputError
from adaptode.plotting import growth
from adaptode.tableau import METHODS

matplotlib.use("Agg")


def oscillator(t, y):
    return [y[1], -y[0]]


def crossing(t, y):
    return y[0]


@pytest.fixture(scope="module")
def solved():
    return ao.solve_ivp(oscillator, (0.0, 10.0), [1.0, 0.0], "Tsit5", rtol=1e-6, atol=1e-9, dense_output=True, events=crossing)


def test_str_is_for_people(solved):
    text = str(solved)
    assert text.splitlines()[0] == "solved by Tsit5: The solver successfully reached the end of the integration interval."
    assert f"{solved.nfev} evaluations" in text and "event 0: 3 times, the last at t = 7.85398" in text and len(text.splitlines()) < 10
    failed = ao.solve_ivp(lambda t, y: y**2, (0.0, 2.0), [1.0])
    assert str(failed).startswith("FAILED by Dopri5")


def test_it_pickles_and_knows_scipys_form(solved):
    twin = pickle.loads(pickle.dumps(solved))
    assert np.array_equal(twin.y, solved.y) and twin.nfev == solved.nfev and np.array_equal(twin.sol(3.3), solved.sol(3.3))
    with pytest.raises(InputError, match="pickled"):
        twin.estimate_global_error()
    twin.plot("stability").figure.clear()
    scipys = solved.to_scipy()
    reference = scipy.integrate.solve_ivp(oscillator, (0.0, 1.0), [1.0, 0.0])
    assert isinstance(scipys, scipy.optimize.OptimizeResult) and set(scipys) == set(reference)
    with pytest.raises(AttributeError, match="no 'nothing'"):
        solved.nothing  # noqa: B018
    assert {"t", "steps", "stats", "plot"} <= set(dir(solved))


@pytest.mark.parametrize("span", [(0.0, 10.0), (10.0, 0.0)])
@pytest.mark.parametrize("times", [None, np.linspace(0.0, 10.0, 7)])
def test_the_global_error_is_estimated(span, times):
    times = None if times is None else times if span[0] == 0.0 else times[::-1]
    run = ao.solve_ivp(oscillator, span, [np.cos(span[0]), -np.sin(span[0])], rtol=1e-5, atol=1e-7, t_eval=times)
    true = run.y - [np.cos(run.t), -np.sin(run.t)]
    estimate = run.estimate_global_error()
    assert estimate.error.shape == run.y.shape
    np.testing.assert_allclose(estimate.error, true, atol=0.1 * np.abs(true).max())
    assert estimate.largest == np.abs(estimate.error).max() and estimate.scaled > 1.0


def test_the_estimate_solves_the_same_problem_whatever_became_of_its_arguments():
    y0, p = np.array([1.0]), np.array([2.0])
    run = ao.solve_ivp(lambda t, y, k: -k * y, (0.0, 1.0), y0, args=iter([2.0]), t_eval=[1.0])
    y0[0] = 50.0
    assert 0.0 < run.estimate_global_error().largest < 1e-2
    decay = ao.rhs(lambda t, y, p, dy: _decay(y, p, dy))
    run = ao.solve_ivp(decay, (0.0, 1.0), [1.0], p=p)
    p[0] = 0.0
    assert run.estimate_global_error().largest < 1e-2


@numba.njit
def _decay(y, p, dy):
    dy[0] = -p[0] * y[0]


def test_a_solve_leaves_no_cycle_behind():
    gc.collect()
    gc.disable()
    try:
        for fun in (oscillator, lambda t, y: np.array(oscillator(t, y))):
            run = ao.solve_ivp(fun, (0.0, 1.0), [1.0, 0.0], dense_output=True, events=crossing)
            watched = weakref.ref(run.y.base)
            del run
            assert watched() is None
    finally:
        gc.enable()


def test_the_estimate_needs_something_to_compare(solved):
    with pytest.raises(InputError, match="between 0 and 1"):
        solved.estimate_global_error(1.0)


def test_a_stiff_problem_is_called_one():
    def stiff(t, y):
        return [-1000.0 * (y[0] - np.cos(t))]

    with pytest.warns(ao.StiffnessWarning, match=r"steps in a row of Tsit5.*Radau"):
        ao.solve_ivp(stiff, (0.0, 2.0), [1.0], "Tsit5")
    with pytest.warns(ao.StiffnessWarning):
        ao.solve_ivp(lambda t, y: [y[1], 1000.0 * (1.0 - y[0] ** 2) * y[1] - y[0]], (0.0, 1.0), [2.0, 0.0])


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "DOP853"])
@pytest.mark.parametrize(
    ("fun", "y0", "end"),
    [
        (oscillator, [1.0, 0.0], 50.0),
        (lambda t, y: [y[1], 5.0 * (1.0 - y[0] ** 2) * y[1] - y[0]], [2.0, 0.0], 30.0),
        (lambda t, y: [10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]], [1.0, 1.0, 1.0], 30.0),
        (lambda t, y: [1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3.0 * y[1]], [10.0, 5.0], 20.0),
    ],
)
def test_a_nonstiff_problem_is_not(fun, y0, end, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ao.solve_ivp(fun, (0.0, end), y0, method, rtol=1e-6, atol=1e-6).success


@pytest.mark.parametrize("kind", ["solution", "steps", "error", "stability"])
def test_pictures(kind, solved):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert solved.plot(kind, ax) is ax and ax.get_xlabel() and ax.get_ylabel()
    plt.close("all")
    assert solved.plot(kind) is not ax
    plt.close("all")
    with pytest.raises(InputError, match="plot knows the kinds"):
        solved.plot("pie")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_stability_function_is_the_steps_factor(method):
    """R(z) to the method's order is exp z, and −constant is where its real interval ends."""
    z = 1e-2 * np.exp(1j * np.linspace(0.0, 6.0, 5))
    assert np.abs(growth(method, z) - np.exp(z)).max() < 2.0 * 1e-2 ** (method.order + 1) + 1e-15
    assert abs(abs(growth(method, np.array([-method.stiffness_constant + 0j]))[0]) - 1.0) < 2e-3


def test_stages_and_error_vectors_on_request():
    run = ao.solve_ivp(oscillator, (0.0, 5.0), [1.0, 0.0], "Tsit5", rtol=1e-4, atol=1e-6, keep=("stages", "errors"))
    log, method = run.steps, METHODS["Tsit5"]
    assert log.stages.shape == (log.accepted.sum(), 7, 2) and log.err.shape == (len(log), 2)
    h = log.h[log.accepted]
    np.testing.assert_allclose(log.err[log.accepted], h[:, None] * np.einsum("s,msn->mn", method.e, log.stages), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(np.diff(run.y.T, axis=0), h[:, None] * np.einsum("s,msn->mn", method.b, log.stages), rtol=1e-9, atol=1e-14)
    with pytest.raises(InputError, match="keep may name"):
        ao.solve_ivp(oscillator, (0.0, 5.0), [1.0, 0.0], keep="everything")
    assert run.steps.rows(slice(2)).t.size == 2


def test_a_callback_sees_every_step_and_can_stop():
    seen = []

    def callback(info):
        seen.append((info.t, tuple(info.y)))
        return info.t > 2.0

    run = ao.solve_ivp(oscillator, (0.0, 10.0), [1.0, 0.0], callback=callback)
    assert run.status == 1 and run.success and run.message.startswith("The callback ended the solve at t = ")
    assert [t for t, _ in seen] == run.t[1:].tolist() and [y for _, y in seen] == [tuple(y) for y in run.y.T[1:]]
    assert run.t[-2] <= 2.0 < run.t[-1] < 10.0


def test_progress_is_shown_on_stderr(capsys):
    ao.solve_ivp(oscillator, (0.0, 1000.0), [1.0, 0.0], rtol=1e-8, progress=True)
    assert "solve" in capsys.readouterr().err
