"""Solving by hand: steps, their undoing, and copies, as a state machine against a plain record."""

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import adaptode as ao
from adaptode.errors import InputError, SolveError
from adaptode.stepper import Stepper


def van_der_pol(t, y):
    return [y[1], 5.0 * (1.0 - y[0] ** 2) * y[1] - y[0]]


Y0 = [2.0, 0.0]


def test_the_steps_are_those_of_solve_ivp():
    whole = ao.solve_ivp(van_der_pol, (0.0, 3.0), Y0, "Tsit5", rtol=1e-6)
    stepper = Stepper(van_der_pol, 0.0, Y0, 3.0, rtol=1e-6)
    t, y = [0.0], [np.array(Y0)]
    while not stepper.done:
        info = stepper.step()
        t.append(info.t)
        y.append(info.y)
    assert np.array_equal(t, whole.t) and np.array_equal(np.transpose(y), whole.y)
    assert stepper.nfev == whole.nfev == info.nfev
    for name in ("t", "h", "error", "stiffness", "accepted"):
        assert np.array_equal(getattr(stepper.steps, name), getattr(whole.steps, name), equal_nan=True)
    assert not whole.steps.accepted.all()  # the comparison has seen rejected attempts
    with pytest.raises(InputError, match="at its end, t = 3"):
        stepper.step()


class Walk(RuleBasedStateMachine):
    """Steps, undos and copies in any order: a stepper is where its own history says, to the bit."""

    def __init__(self):
        super().__init__()
        self.stepper = Stepper(van_der_pol, 0.0, Y0)
        self.path = [(0.0, tuple(Y0), self.stepper.h, 0)]

    def place(self):
        return self.stepper.t, tuple(self.stepper.y), self.stepper.h, len(self.stepper.steps)

    @rule()
    def step(self):
        before = self.stepper.nfev
        info = self.stepper.step()
        assert self.stepper.nfev > before and (info.t, tuple(info.y)) == self.place()[:2]
        self.path.append(self.place())

    @precondition(lambda self: len(self.path) > 1)
    @rule(count=st.integers(1, 3))
    def undo_and_redo(self, count):
        count = min(count, len(self.path) - 1)
        spent = self.stepper.nfev
        for _ in range(count):
            self.stepper.undo()
        assert self.place() == self.path[-1 - count] and self.stepper.nfev == spent
        for place in self.path[-count:]:
            self.stepper.step()
            assert self.place() == place

    @precondition(lambda self: len(self.path) > 1)
    @rule()
    def undo(self):
        self.stepper.undo()
        self.path.pop()

    @rule()
    def go_on_in_a_copy(self):
        twin, here = self.stepper.copy(), self.place()
        twin.step()
        assert self.place() == here
        self.stepper.step()
        assert (twin.t, tuple(twin.y)) == self.place()[:2]
        self.stepper.undo()

    @invariant()
    def it_is_where_it_should_be(self):
        assert self.place() == self.path[-1]
        assert self.stepper.steps.accepted.sum() == len(self.path) - 1


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_dense_output_of_the_last_step():
    stepper = Stepper(lambda t, y: [y[1], -y[0]], 0.0, [1.0, 0.0], method="Dopri5", rtol=1e-8, atol=1e-10)
    with pytest.raises(InputError, match="no step yet"):
        stepper.sol(0.0)
    for _ in range(6):
        start = stepper.t
        info = stepper.step()
    middle = 0.5 * (start + info.t)
    np.testing.assert_allclose(stepper.sol(middle), [math.cos(middle), -math.sin(middle)], atol=1e-7)
    assert np.array_equal(stepper.sol(info.t), info.y) and stepper.sol([start, middle]).shape == (2, 2)


def test_nothing_is_left_to_undo():
    with pytest.raises(InputError, match="no step to undo"):
        Stepper(van_der_pol, 0.0, Y0).undo()


def test_a_step_that_fails_leaves_it_where_it_was():
    stepper = Stepper(lambda t, y: y**2, 0.0, [1.0], 2.0, rtol=1e-6)
    with pytest.raises(SolveError, match=r"smaller than the spacing|NaN or inf"):
        while True:
            here = stepper.t, stepper.y[0], len(stepper.steps)
            stepper.step()
    assert (stepper.t, stepper.y[0], len(stepper.steps)) == here and 0.99 < stepper.t < 1.01

    calls = []

    def raises(t, y):
        calls.append(t)
        if len(calls) == 12:
            raise ZeroDivisionError("here")
        return -y

    stepper = Stepper(raises, 0.0, [1.0])
    with pytest.raises(ZeroDivisionError, match="here"):
        for _ in range(3):
            here = stepper.t, stepper.y[0]
            stepper.step()
    assert (stepper.t, stepper.y[0]) == here
    assert stepper.step().t > here[0]


def test_compiled_and_complex():
    @ao.rhs
    def decay(t, y, p, dy):
        dy[0] = -p[0] * y[0]

    stepper = Stepper(decay, 0.0, [1.0], 1.0, p=[2.0], rtol=1e-8, atol=1e-10)
    while not stepper.done:
        stepper.step()
    assert stepper.y[0] == pytest.approx(math.exp(-2.0), rel=1e-7)
    turning = Stepper(lambda t, y: 1j * y, 0.0, [1.0 + 0j], 1.0, rtol=1e-8, atol=1e-10)
    while not turning.done:
        turning.step()
    assert turning.y[0] == pytest.approx(complex(math.cos(1.0), math.sin(1.0)), rel=1e-7)


def test_bad_arguments():
    with pytest.raises(InputError, match="t0 must be finite"):
        Stepper(van_der_pol, math.nan, Y0)
    with pytest.raises(InputError, match="no error estimate"):
        Stepper(van_der_pol, 0.0, Y0, method="RK4")
    with pytest.raises(InputError, match="1-dimensional"):
        Stepper(van_der_pol, 0.0, 1.0)
    assert "Tsit5 at t = 0, 0 attempts" in repr(Stepper(van_der_pol, 0.0, Y0))
