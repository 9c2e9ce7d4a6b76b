"""Right-hand sides: compiled ones in both manners, what they cost to call again, what is said of those that do not fit; the solver for compiled code."""

import math
import pickle

import numba
import numpy as np
import pytest
import scipy.integrate

import adaptode as ao
from adaptode import loop
from adaptode._jit import JIT_DISABLED
from adaptode.errors import FieldError, InputError
from adaptode.tableau import METHODS

needs_numba = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")


def lorenz(t, y, p, dy):
    dy[0] = p[0] * (y[1] - y[0])
    dy[1] = y[0] * (p[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - p[2] * y[2]


def plain(t, y, s, r, b):
    return [s * (y[1] - y[0]), y[0] * (r - y[2]) - y[1], y[0] * y[1] - b * y[2]]


@numba.njit
def in_scipys_manner(t, y, s, r, b):
    return np.array([s * (y[1] - y[0]), y[0] * (r - y[2]) - y[1], y[0] * y[1] - b * y[2]])


@numba.njit
def a_tuple(t, y, s, r, b):
    return s * (y[1] - y[0]), y[0] * (r - y[2]) - y[1], y[0] * y[1] - b * y[2]


COMPILED = ao.rhs(lorenz)
ARGS = (10.0, 28.0, 8.0 / 3.0)
Y0 = [1.0, 1.0, 1.0]
OPTIONS = {"rtol": 1e-7, "atol": 1e-9}


def agree(a, b):
    """The same attempts and the same numbers, but for contraction of products into sums."""
    assert a.nfev == b.nfev and a.steps.accepted.tolist() == b.steps.accepted.tolist()
    np.testing.assert_allclose(a.t, b.t, rtol=1e-9)
    np.testing.assert_allclose(a.y, b.y, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "BS32", "DOP853"])
def test_every_manner_gives_the_same_solve(method):
    truth = ao.solve_ivp(plain, (0.0, 2.0), Y0, method, args=ARGS, **OPTIONS)
    assert truth.success and truth.nfev > 100
    for fun, given in (
        (COMPILED, {"args": ARGS}),
        (COMPILED, {"p": ARGS}),
        (COMPILED, {"args": (np.array(ARGS),)}),
        (COMPILED.dispatcher, {"p": ARGS}),
        (in_scipys_manner, {"args": ARGS}),
        (a_tuple, {"args": ARGS}),
    ):
        agree(ao.solve_ivp(fun, (0.0, 2.0), Y0, method, **given, **OPTIONS), truth)


@pytest.mark.compiles
@needs_numba
@pytest.mark.parametrize("method", ["Tsit5", "DOP853"])
def test_specialized_is_the_same_solve_and_compiled_once(method):
    once = ao.solve_ivp(COMPILED, (0.0, 2.0), Y0, method, args=ARGS, specialize=True, **OPTIONS)
    agree(once, ao.solve_ivp(COMPILED, (0.0, 2.0), Y0, method, args=ARGS, **OPTIONS))
    made = loop.specialized(COMPILED, METHODS[method])
    again = ao.solve_ivp(COMPILED, (0.0, 2.0), Y0, method, args=ARGS, specialize=True, **OPTIONS)
    assert loop.specialized(COMPILED, METHODS[method]) is made and np.array_equal(once.y, again.y)
    # another function under the same code is another function
    scaled = ao.rhs(lambda t, y, p, dy: lorenz_twice(t, y, p, dy))
    faster = ao.solve_ivp(scaled, (0.0, 1.0), Y0, method, args=ARGS, specialize=True, **OPTIONS)
    np.testing.assert_allclose(faster.y[:, -1], once.y[:, -1], rtol=1e-3)


lorenz_inside = numba.njit(lorenz)


@numba.njit
def lorenz_twice(t, y, p, dy):
    lorenz_inside(t, y, p, dy)
    dy *= 2.0


def test_specialize_needs_a_compiled_function():
    with pytest.raises(InputError, match="specialize=True compiles the loop around a compiled right-hand side"):
        ao.solve_ivp(plain, (0.0, 1.0), Y0, args=ARGS, specialize=True)


@needs_numba
def test_a_right_hand_side_is_compiled_once():
    f = ao.rhs(lorenz)
    ao.solve_ivp(f, (0.0, 0.1), Y0, args=ARGS)
    sockets = dict(f._sockets)
    ao.solve_ivp(f, (0.0, 0.1), Y0, args=(9.0, 20.0, 2.0))
    assert f._sockets == sockets and len(sockets) == 1
    ao.solve_ivp(f, (0.0, 0.1), np.array(Y0, complex), args=ARGS)
    assert len(f._sockets) == 2


def test_the_decorator_looks_at_its_function():
    with pytest.raises(InputError, match=r"takes \(t, y, p, dy\).*takes \(t, y\)"):
        ao.rhs(lambda t, y: y)
    with pytest.raises(InputError, match="decorates a function"):
        ao.rhs(3.0)
    assert COMPILED.name == "lorenz" and "lorenz(t, y, p, dy)" in repr(COMPILED)
    dy = np.empty(3)
    COMPILED(0.0, np.ones(3), np.array(ARGS), dy)
    np.testing.assert_allclose(dy, plain(0.0, Y0, *ARGS))


@needs_numba
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda t, y, p, dy: y.no_such_thing, "no_such_thing"),
        (lambda t, y, p, dy: 2.0 * y, "must fill its last array in place and return nothing"),
    ],
)
def test_a_function_that_does_not_compile_is_explained(function, reason):
    with pytest.raises(FieldError, match=reason) as caught:
        ao.solve_ivp(ao.rhs(function), (0.0, 1.0), [1.0])
    message = str(caught.value)
    assert "@adaptode.rhs" in message and "pipeline" not in message and len(message) < 600


@needs_numba
def test_a_compiled_answer_of_another_length():
    @numba.njit
    def short(t, y):
        return np.zeros(2)

    with pytest.raises(ValueError, match="as many numbers as y0"):
        ao.solve_ivp(short, (0.0, 1.0), Y0)


@pytest.mark.parametrize("both", [True, False])
def test_parameters_given_wrongly(both):
    if both:
        with pytest.raises(InputError, match="takes its parameters once"):
            ao.solve_ivp(COMPILED, (0.0, 1.0), Y0, args=ARGS, p=ARGS)
    else:
        with pytest.raises(InputError, match="p= belongs to a right-hand side made by adaptode.rhs"):
            ao.solve_ivp(plain, (0.0, 1.0), Y0, p=ARGS)
    with pytest.raises(InputError, match="must be numbers"):
        ao.solve_ivp(COMPILED, (0.0, 1.0), Y0, args=("a",))


@needs_numba
def test_a_function_that_leaves_its_arrays_is_refused():
    """Compiled code takes whatever lies beyond an array for numbers; forgotten parameters are the usual cause."""
    with pytest.raises(InputError, match=r"lorenz reads beyond its arrays: y0 has 3 and p 0 numbers. Give all its parameters"):
        ao.solve_ivp(ao.rhs(lorenz), (0.0, 1.0), Y0)
    with pytest.raises(InputError, match="y0 has 3 and p 2 numbers"):
        ao.solve_ivp(ao.rhs(lorenz), (0.0, 1.0), Y0, p=ARGS[:2])
    with pytest.raises(InputError, match="writes more derivatives than y0 has components, 2"):
        ao.solve_ivp(ao.rhs(lorenz), (0.0, 1.0), Y0[:2], p=ARGS)

    @ao.rhs
    def too_many(t, y, p, dy):
        for i in range(3):
            dy[i] = -y[0]

    with pytest.raises(InputError, match="writes more derivatives than y0 has components, 1"):
        ao.solve_ivp(too_many, (0.0, 1.0), [1.0])

    @ao.rhs
    def constant(t, y, p, dy):
        dy[0], dy[1] = 3.0, -7.0

    assert ao.solve_ivp(constant, (0.0, 1.0), [0.0, 0.0]).success

    @ao.rhs
    def forgets(t, y, p, dy):
        dy[0] = 1.0

    assert "not finite at t = 0" in ao.solve_ivp(forgets, (0.0, 1.0), [0.0, 0.0]).message


def test_complex_parameters_need_a_complex_state():
    for given in ({"p": [1.0 + 5.0j]}, {"args": (5.0j,)}):
        with pytest.raises(InputError, match="complex parameters but a real y0"):
            ao.solve_ivp(ONE, (0.0, 1.0), [1.0], **given)
    run = ao.solve_ivp(ONE, (0.0, 1.0), [1.0 + 0j], p=[1.0j], rtol=1e-8, atol=1e-10)
    assert run.y[0, -1] == pytest.approx(np.exp(-1j), rel=1e-6)


@ao.rhs
def ONE(t, y, p, dy):
    dy[0] = -p[0] * y[0]


@needs_numba
def test_what_cannot_be_adapted_is_called_from_python():
    @numba.njit
    def mixed(t, y):
        return (y[1], 0)

    @numba.njit
    def index(t, y, k):
        return np.array([-y[k], -y[0]])

    @numba.njit
    def number(t, y):
        return -y[0]

    for fun, y0, args in ((mixed, [1.0, 2.0], ()), (index, [1.0, 2.0], (1,)), (number, [1.0], ())):
        ours = ao.solve_ivp(fun, (0.0, 1.0), y0, args=args)
        scipys = scipy.integrate.solve_ivp(fun, (0.0, 1.0), y0, args=args)
        np.testing.assert_allclose(ours.y, scipys.y, rtol=1e-9)


def test_a_right_hand_side_can_be_pickled_after_use():
    ao.solve_ivp(ONE, (0.0, 1.0), [1.0], p=[1.0])
    twin = pickle.loads(pickle.dumps(ONE))
    assert ao.solve_ivp(twin, (0.0, 1.0), [1.0], p=[1.0]).success


@needs_numba
def test_an_exception_beyond_a_terminal_event_is_not_met():
    @ao.rhs
    def boom(t, y, p, dy):
        if t > 1.0:
            raise ValueError("beyond")
        dy[0] = 1.0

    def half(t, y):
        return y[0] - 0.5

    half.terminal = True
    run = ao.solve_ivp(boom, (0.0, 2.0), [0.0], events=half, max_step=0.05)
    assert run.status == 1 and run.t[-1] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="beyond"):
        ao.solve_ivp(boom, (0.0, 2.0), [0.0], events=lambda t, y: y[0] - 0.5, max_step=0.05)


@needs_numba
def test_an_interrupt_while_events_are_looked_for_returns_what_was_looked_through():
    @ao.rhs
    def forward(t, y, p, dy):
        dy[0] = 1.0

    def late(t, y):
        if t > 0.9:
            raise KeyboardInterrupt
        return y[0] - 1.0

    late.terminal = True
    with pytest.warns(RuntimeWarning, match="interrupted at t = "):
        run = ao.solve_ivp(forward, (0.0, 5.0), [0.0], events=late, max_step=0.01, t_eval=np.linspace(0.0, 5.0, 501))
    assert run.status == -1 and run.t.size < 91 and (run.t.size == 0 or run.t[-1] <= 0.9)
    assert run.steps.accepted.sum() < 91 and "Interrupted" in run.message


@needs_numba
def test_an_exception_inside_compiled_code_comes_out_as_itself():
    @numba.njit
    def raises(t, y, p, dy):
        if t > p[0]:
            raise ArithmeticError("too late")
        dy[0] = -y[0]

    for late in (-1.0, 0.5):
        with pytest.raises(ArithmeticError, match="too late"):
            ao.solve_ivp(raises, (0.0, 1.0), [1.0], p=[late])
    assert ao.solve_ivp(raises, (0.0, 1.0), [1.0], p=[2.0]).success


# --- the solver for compiled code ---------------------------------------------------------------------------------------------


@pytest.mark.compiles
@needs_numba
@pytest.mark.parametrize("method", ["Tsit5", "BS32", "DOP853"])
def test_the_jitted_solver_takes_the_steps_of_solve_ivp(method):
    solver = ao.jit_solver(COMPILED, method)
    for end in (1.5, -0.3):
        status, t, y, nfev = solver(0.0, end, np.array(Y0), np.array(ARGS), 1e-7, 1e-9)
        truth = ao.solve_ivp(COMPILED, (0.0, end), Y0, method, args=ARGS, **OPTIONS)
        assert status == 0 and t == end and nfev == truth.nfev
        np.testing.assert_allclose(y, truth.y[:, -1], rtol=1e-8, atol=1e-8)


@pytest.mark.compiles
@needs_numba
def test_inside_a_users_compiled_function():
    solver = ao.jit_solver(ao.rhs(lambda t, y, p, dy: decay(y, p, dy)))

    @numba.njit
    def ends(rates):
        out = np.empty(rates.size)
        for i in range(rates.size):
            status, t, y, nfev = solver(0.0, 1.0, np.ones(1), rates[i : i + 1], 1e-9, 1e-12)
            out[i] = y[0] if status == 0 else np.nan
        return out

    rates = np.linspace(0.1, 3.0, 7)
    np.testing.assert_allclose(ends(rates), np.exp(-rates), rtol=1e-7)


@numba.njit
def decay(y, p, dy):
    dy[0] = -p[0] * y[0]


@pytest.mark.compiles
@needs_numba
def test_the_jitted_solver_says_how_it_ended():
    @ao.rhs
    def blows_up(t, y, p, dy):
        dy[0] = y[0] ** 2

    start, none = np.ones(1), np.empty(0)
    status, t, y, _ = ao.jit_solver(blows_up)(0.0, 2.0, start, none, 1e-6, 1e-9)
    assert ao.Status(status) in (ao.Status.STEP_TOO_SMALL, ao.Status.NONFINITE) and 0.99 < t < 1.01
    assert start[0] == 1.0
    status, t, y, nfev = ao.jit_solver(blows_up, max_steps=3)(0.0, 2.0, start, none, 1e-6, 1e-9)
    assert ao.Status(status) is ao.Status.MAX_STEPS and 0.0 < t < 1.0 and nfev == 2 + 3 * 6
    status, t, y, nfev = ao.jit_solver(blows_up)(0.0, 2.0, np.array([math.nan]), none, 1e-6, 1e-9)
    assert ao.Status(status) is ao.Status.NONFINITE and t == 0.0 and nfev == 1
    for wrong in ((math.nan, 1.0, 1e-6), (0.0, math.nan, 1e-6), (0.0, math.inf, 1e-6), (0.0, 1.0, math.nan)):
        status, *_, nfev = ao.jit_solver(blows_up)(*wrong[:2], start, none, wrong[2], 1e-9)
        assert ao.Status(status) is ao.Status.NONFINITE and nfev == 0
    with pytest.raises(InputError, match="no error estimate"):
        ao.jit_solver(blows_up, "RK4")
    with pytest.raises(InputError, match="takes"):
        ao.jit_solver(lambda t, y: -y)


@pytest.mark.compiles
@needs_numba
def test_the_jitted_solver_takes_any_kind_of_numbers():
    solver, truth = ao.jit_solver(ONE), math.exp(-2.0)
    spread = np.array([2.0, 9.0, 9.0])[::2]
    for y0, p in ((np.ones(1), np.array([2])), (np.ones(1, int), np.array([2.0])), (np.ones(1, np.float32), np.array([2.0], np.float32)), (np.ones(1), spread)):
        status, _, y, _ = solver(0, 1, y0, p, 1e-8, 1e-10)
        assert status == 0 and y[0] == pytest.approx(truth, rel=1e-6) and y0[0] == 1
