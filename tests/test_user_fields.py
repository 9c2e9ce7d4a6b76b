"""Fields given by the user, in NumPy and in Numba: one contract with the MLP's, and named errors where it is broken."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from frozen import draw_like
from strategies import parameters

import adaptode as ao
from adaptode._jit import JIT_DISABLED
from adaptode.adjoint import discrete
from adaptode.errors import FieldError, InputError, MissingDerivativeError
from adaptode.fields import MLP, CompiledField, PythonField

N, H, B = 2, 3, 3  # y' = tanh(y W1 + t v1 + b1) W2 + b2
SIZES, P = (N, H, N), N * H + H + H + H * N + N
NETWORK = MLP(SIZES, time="first")
needs_numba = pytest.mark.skipif(JIT_DISABLED, reason="without Numba a compiled field is a Python field")


def net_value(t, y, theta):
    part = NETWORK.views(theta)
    return np.tanh(y @ part["W1"] + t * part["v1"] + part["b1"]) @ part["W2"] + part["b2"]


def net_vjp(t, y, theta, w):
    part = NETWORK.views(theta)
    x = np.tanh(y @ part["W1"] + t * part["v1"] + part["b1"])
    z_bar = (w @ part["W2"].T) * (1 - x * x)
    shift = z_bar.sum(0)
    pieces = (y.T @ z_bar, t * shift, shift, x.T @ w, w.sum(0))
    return z_bar @ part["W1"].T, np.concatenate([p.ravel() for p in pieces])


@numba.njit
def njit_value(t, y, theta, out):
    for b in range(y.size // N):
        for i in range(N):
            out[b * N + i] = theta[2 * N * H + 2 * H + i]
        for j in range(H):
            z = t * theta[N * H + j] + theta[N * H + H + j]
            for i in range(N):
                z += y[b * N + i] * theta[i * H + j]
            for i in range(N):
                out[b * N + i] += np.tanh(z) * theta[N * H + 2 * H + j * N + i]


@numba.njit
def njit_vjp(t, y, theta, w, y_bar, theta_bar):
    for b in range(y.size // N):
        for j in range(H):
            z = t * theta[N * H + j] + theta[N * H + H + j]
            for i in range(N):
                z += y[b * N + i] * theta[i * H + j]
            x, x_bar = np.tanh(z), 0.0
            for i in range(N):
                x_bar += w[b * N + i] * theta[N * H + 2 * H + j * N + i]
                theta_bar[N * H + 2 * H + j * N + i] += x * w[b * N + i]
            z_bar = (1 - x * x) * x_bar
            theta_bar[N * H + j] += t * z_bar
            theta_bar[N * H + H + j] += z_bar
            for i in range(N):
                theta_bar[i * H + j] += y[b * N + i] * z_bar
                y_bar[b * N + i] += theta[i * H + j] * z_bar
        for i in range(N):
            theta_bar[2 * N * H + 2 * H + i] += w[b * N + i]


THETA = parameters(4, SIZES, "first")
Y = np.cos(np.arange(B * N)).reshape(B, N)
FIELDS = {
    "python": PythonField(net_value, N, P, vjp=net_vjp),
    "compiled": CompiledField(njit_value, N, P, vjp=njit_vjp),
}
both = pytest.mark.parametrize("kind", FIELDS)
precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@both
@precisions
def test_the_same_contract_as_the_mlps(kind, dtype):
    field, y, theta = FIELDS[kind], Y.astype(dtype), THETA.astype(dtype)
    (w,) = (x.astype(dtype) for x in draw_like(0, Y))
    rtol = 1e-13 if dtype == np.float64 else 2e-5
    got = [field.value(0.3, y, theta), *field.vjp(0.3, y, theta, w)]
    expected = [NETWORK.value(0.3, y, theta), *NETWORK.vjp(0.3, y, theta, w)]
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@both
@precisions
@pytest.mark.parametrize("keep", ["states", "stages"])
@pytest.mark.parametrize("method", ["Tsit5", "BS32", "RK4"])
def test_solve_and_adjoint_are_the_mlps(kind, dtype, keep, method):
    fixed = {"rtol": 1e-4, "atol": 1e-4, "method": method, "keep": keep, "saveat": [0.0, 0.6, 1.3], "first_step": 0.2}
    runs = [ao.solve(f, THETA.astype(dtype), Y.astype(dtype), (0.0, 1.3), **fixed) for f in (FIELDS[kind], NETWORK)]
    y_bar = draw_like(1, runs[0].y)[0]
    bars = {"jumps": [(0.5, Y)]}
    if method != "RK4":
        bars["error_bar"] = np.ones(runs[0].grid.size - 1)
    mine, theirs = (discrete(run, y_bar, **bars) for run in runs)
    tight = dtype == np.float64
    np.testing.assert_allclose(runs[0].grid, runs[1].grid, rtol=1e-10 if tight else 5e-3)
    np.testing.assert_allclose(runs[0].y, runs[1].y, rtol=1e-10 if tight else 1e-4)
    for name in ("y0", "theta"):
        a, b = getattr(mine, name), getattr(theirs, name)
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=(1e-7 if tight else 0.05) * np.abs(b).max())


@both
def test_evaluations_are_those_that_were_made(kind):
    if kind == "compiled":
        field, counts = FIELDS[kind], None
    else:
        counts = {"value": 0, "vjp": 0}

        def counted(name, function):
            def call(*arguments):
                counts[name] += 1
                return function(*arguments)

            return call

        field = PythonField(counted("value", net_value), N, P, vjp=counted("vjp", net_vjp))
    for keep in ("states", "stages"):
        run = ao.solve(field, THETA, Y, (0.0, 2.0), keep=keep, rtol=1e-5)
        steps = run.grid.size - 1
        assert steps > 2
        if counts:
            assert counts["value"] == run.nfev
            counts.update(value=0, vjp=0)
        evaluations = discrete(run, Y).evaluations
        # b7 = 0: the very last stage is not needed, every other one once; and none where the stages were kept
        forward = 6 * steps if keep == "states" else 0
        assert evaluations == forward + 6 * steps
        if counts:
            assert (counts["value"], counts["vjp"]) == (forward, 6 * steps)
            counts.update(value=0, vjp=0)


def net_time_vjp(t, y, theta, w):
    return NETWORK.time_vjp(t, y.copy(), theta, w.copy())


def test_a_derivative_in_time():
    python = PythonField(net_value, N, P, vjp=net_vjp, time_vjp=net_time_vjp)
    runs = [ao.solve(f, THETA, Y, (0.2, 1.3), rtol=1e-5) for f in (python, NETWORK, FIELDS["python"])]
    mine, theirs, none = (discrete(run, Y) for run in runs)
    np.testing.assert_allclose((mine.t0, mine.t1), (theirs.t0, theirs.t1), rtol=1e-9)
    assert mine.t0 and none.t0 is None and none.t1 is None
    python.require("time_vjp")
    assert python.has("time_vjp") and not FIELDS["compiled"].has("time_vjp")
    for field in FIELDS.values():
        with pytest.raises(MissingDerivativeError, match="has no `time_vjp`"):
            field.time_vjp(0.0, Y, THETA, Y)
    with pytest.raises(InputError, match=r"calls time_vjp\(t, y, theta, w\)"):
        PythonField(net_value, N, P, time_vjp=net_value)
    with pytest.raises(FieldError, match=r"`time_vjp` of net_value must return shape \(\); got \(3, 2\)"):
        PythonField(net_value, N, P, time_vjp=lambda t, y, theta, w: w).time_vjp(0.0, Y, THETA, Y)


@pytest.mark.slow
def test_a_compiled_derivative_in_time():
    @numba.njit
    def value(t, y, theta, out):
        out[:] = np.sin(theta[0] * t) * y

    @numba.njit
    def vjp(t, y, theta, w, y_bar, theta_bar):
        y_bar += np.sin(theta[0] * t) * w
        theta_bar[0] += t * np.cos(theta[0] * t) * np.sum(w * y)

    @numba.njit
    def time_vjp(t, y, theta, w):
        return theta[0] * np.cos(theta[0] * t) * np.sum(w * y)

    @numba.njit
    def no_number(t, y, theta, w):
        return w

    for dtype in (np.float64, np.float32):
        field = CompiledField(value, 2, 1, vjp=vjp, time_vjp=time_vjp)
        got = field.time_vjp(0.3, Y.astype(dtype), np.array([2.0], dtype), Y.astype(dtype))
        assert isinstance(got, float) and abs(got - 2 * np.cos(0.6) * np.sum(Y * Y)) < (1e-12 if dtype == np.float64 else 1e-5)
        gradient = discrete(ao.solve(field, np.array([2.0], dtype), Y.astype(dtype), (0.0, 1.0)), Y)
        assert gradient.t1 > 0 and gradient.t0 == pytest.approx(0, abs=1e-4)
    with pytest.raises(FieldError, match="`time_vjp` of value must return a number|the field must return a number"):
        CompiledField(value, 2, 1, time_vjp=no_number).time_vjp(0.0, Y, [2.0], Y)
    with pytest.raises(InputError, match="needs a time_vjp made by numba.njit"):
        CompiledField(value, 2, 1, time_vjp=lambda t, y, theta, w: 0.0)


# --- a Python field's functions ---------------------------------------------------------------------------------------


def linear(t, y, theta):
    return theta[0] * y


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (None, "NoneType"),
        (np.ones(2), r"\(2,\)"),
        (np.ones((1, 2)), r"\(1, 2\)"),
        (np.ones((3, 2, 1)), r"\(3, 2, 1\)"),
        (1.0, r"\(\)"),
        ("none", "str"),
        ([[1.0, 2.0], [3.0]], "list"),
        (np.full((3, 2), None), "ndarray"),
        (1j * Y, "ndarray"),
    ],
)
def test_a_wrong_answer_is_a_field_error_with_the_name_and_both_shapes(answer, got):
    field = PythonField(lambda *_: answer, 2, 1, name="broken")
    with pytest.raises(FieldError, match=rf"`value` of broken must return shape \(3, 2\); got {got}"):
        field.value(0, Y, [1.0])
    with pytest.raises(FieldError, match=rf"`value` of broken must return shape \(3, 2\); got {got}"):
        ao.solve(field, [1.0], Y, (0, 1))


def test_a_wrong_answer_of_a_derivative():
    def wrong(*_):
        return np.ones((3, 2))

    broken = dict.fromkeys(("vjp", "jvp", "jacobian", "bilinear_vjp"), wrong)
    broken["jvp"] = lambda *_: None
    field, shape = PythonField(linear, 2, 1, **broken), r"\(3, 2\)"
    with pytest.raises(FieldError, match=rf"`vjp` of linear must return shape {shape}, \(1,\)"):
        field.vjp(0, Y, [1.0], Y)
    with pytest.raises(FieldError, match=rf"`jvp` .* {shape}; got NoneType"):
        field.jvp(0, Y, [1.0], Y)
    with pytest.raises(FieldError, match=rf"`jacobian` .* \(3, 2, 2\); got {shape}"):
        field.jacobian(0, Y, [1.0])
    with pytest.raises(FieldError, match=rf"`bilinear_vjp` .* {shape}, \(1,\)"):
        field.bilinear_vjp(0, Y, [1.0], Y, Y)
    run = ao.solve(field, [1.0], Y, (0, 1))
    with pytest.raises(FieldError, match="`vjp` of linear"):
        discrete(run, Y)


def test_a_missing_derivative_is_named():
    compiled = CompiledField(njit_value, N, P, name="half")
    python = PythonField(net_value, N, P, name="half")
    arguments = {"vjp": (Y,), "jvp": (Y,), "jacobian": (), "bilinear_vjp": (Y, Y)}
    for field in (compiled, python):
        for name, more in arguments.items():
            with pytest.raises(MissingDerivativeError, match=rf"Field\(half, n=2, n_params={P}\) has no `{name}`; give it one"):
                getattr(field, name)(0.0, Y, THETA, *more)
        run = ao.solve(field, THETA, Y, (0, 1))  # values alone are enough to solve
        with pytest.raises(MissingDerivativeError, match=r"half.* has no `vjp`"):
            discrete(run, Y)
        field.require()
        with pytest.raises(MissingDerivativeError, match=r"half.* has no `jacobian`"):
            field.require("jacobian", "vjp")
    NETWORK.require(*arguments)
    PythonField(linear, 2, 1, **dict.fromkeys(arguments, lambda *_: None)).require(*arguments)


def test_functions_get_read_only_views():
    seen = []

    def spy(answer):
        def function(t, *arrays):
            seen.append(arrays)
            return answer

        return function

    field = PythonField(
        spy(Y),
        2,
        1,
        vjp=spy((Y, np.ones(1))),
        jvp=spy(Y),
        jacobian=spy(np.ones((3, 2, 2))),
        bilinear_vjp=spy((Y, np.ones(1))),
    )
    y, theta, u = Y.copy(), np.ones(1), Y.copy()
    field.value(0, y, theta)
    field.vjp(0, y, theta, u)
    field.jvp(0, y, theta, u)
    field.jacobian(0, y, theta)
    field.bilinear_vjp(0, y, theta, u, u)
    discrete(ao.solve(field, theta, y, (0, 0.1)), y)
    assert len(seen) > 10
    for arrays in seen:
        assert arrays[0].shape == (3, 2) and arrays[1].shape == (1,)
        for a in arrays:
            with pytest.raises(ValueError, match="read-only"):
                a[...] = 0
    assert all(a.flags.writeable for a in (y, theta, u))


def test_a_field_that_scribbles_on_its_arguments_fails_and_harms_nothing():
    def scribble(t, y, theta):
        y *= 0
        return y

    y = Y.copy()
    with pytest.raises(FieldError, match=r"`value` of scribble writes into its arguments.*read-only.*copy"):
        ao.solve(PythonField(scribble, 2), [], y, (0, 1))
    with pytest.raises(FieldError, match=r"`jacobian` of linear writes into its arguments"):
        PythonField(linear, 2, jacobian=scribble).jacobian(0, y, [])
    np.testing.assert_array_equal(y, Y)

    def other(t, y, theta):
        raise ValueError("not today")

    with pytest.raises(ValueError, match="^not today$") as caught:  # the user's own errors stay theirs
        PythonField(other, 2).value(0, y, [])
    assert type(caught.value) is ValueError


def test_functions_of_other_arguments_are_refused_at_construction():
    with pytest.raises(InputError, match=r"calls value\(t, y, theta\), but the function given takes \(t, y\); a field without parameters takes theta too"):
        PythonField(lambda t, y: -y, 2)
    with pytest.raises(InputError, match=r"calls vjp\(t, y, theta, w\), but linear takes \(t, y, theta\)$"):
        PythonField(linear, 2, 1, vjp=linear)
    with pytest.raises(InputError, match=r"jacobian must be a function jacobian\(t, y, theta\); got 3"):
        PythonField(linear, 2, 1, jacobian=3)
    PythonField(lambda *arguments: None, 2)
    PythonField(lambda t, y, theta, extra=0: None, 2)
    PythonField(np.add, 2)  # a ufunc says nothing of its arguments


def test_a_type_error_inside_the_field_is_the_users():
    def value(t, y, theta):
        return len(1.0)

    with pytest.raises(TypeError, match="has no len"):
        PythonField(value, 2).value(0, Y, [])


def test_a_field_is_called_what_its_function_is():
    def value(t, y, theta):
        return y

    class Model:
        def flow(self, t, y, theta):
            return y

        def __call__(self, t, y, theta):
            return y

    assert PythonField(linear, 2).name == "linear" and PythonField(value, 2).name == "the field" == PythonField(lambda t, y, theta: y, 2).name
    assert PythonField(Model().flow, 2).name == "Model.flow" and PythonField(Model(), 2).name == "Model"
    assert PythonField(value, 2, name="pendulum").name == "pendulum"
    with pytest.raises(MissingDerivativeError, match=r"^PythonField\(the field, n=2, n_params=0\) has no `vjp`"):
        PythonField(value, 2).vjp(0, Y, [], Y)


def test_a_field_that_keeps_its_answer_and_writes_to_it_later():
    buffers = {"value": np.empty((3, 2)), "jacobian": np.empty((3, 2, 2)), "y": np.empty((3, 2)), "theta": np.empty(1)}

    def value(t, y, theta):
        buffers["value"][:] = theta[0] * y
        return buffers["value"]

    def vjp(t, y, theta, w):
        buffers["y"][:], buffers["theta"][:] = theta[0] * w, np.sum(y * w)
        return buffers["y"], buffers["theta"]

    def jacobian(t, y, theta):
        buffers["jacobian"][:] = t
        return buffers["jacobian"]

    keeper = PythonField(
        value,
        2,
        1,
        vjp=vjp,
        jvp=lambda t, y, theta, v: value(t, v, theta),
        jacobian=jacobian,
        bilinear_vjp=lambda t, y, theta, u, w: vjp(t, y, theta, w),
    )
    clean = PythonField(linear, 2, 1, vjp=lambda t, y, theta, w: (theta[0] * w, [np.sum(y * w)]))
    runs = [ao.solve(f, [-0.7], Y, (0, 2), keep="stages", saveat=[0, 1, 2]) for f in (keeper, clean)]
    assert runs[0].y.tobytes() == runs[1].y.tobytes() and runs[0].stages.tobytes() == runs[1].stages.tobytes()
    gradients = [discrete(run, Y, jumps=[(1.1, Y)]) for run in runs]
    np.testing.assert_array_equal(gradients[0].theta, gradients[1].theta)
    for name, more in {"value": (), "vjp": (Y,), "jvp": (Y,), "jacobian": (), "bilinear_vjp": (Y, Y)}.items():
        first = getattr(keeper, name)(1.0, Y, [1.0], *more)
        before = [np.copy(part) for part in first] if isinstance(first, tuple) else np.copy(first)
        getattr(keeper, name)(2.0, 3 * Y, [5.0], *(2 * x for x in more))
        for a, b in zip(first, before, strict=True):
            np.testing.assert_array_equal(a, b)


@both
def test_an_exception_passes_through_unchanged(kind):
    class Mine(Exception):
        pass

    mine = Mine("of my own")

    def raises(t, y, theta):
        if t > 0.5:
            raise mine
        return y

    if kind == "python":
        with pytest.raises(Mine) as caught:
            ao.solve(PythonField(raises, 2), [], Y, (0, 1))
        assert caught.value is mine
        return

    @numba.njit
    def compiled_raises(t, y, theta, out):
        out[:] = y
        if t > 0.5:
            raise ZeroDivisionError("of my own")

    with pytest.raises(ZeroDivisionError, match="of my own"):
        ao.solve(CompiledField(compiled_raises, 2), [], Y, (0, 1))


@both
def test_changing_theta_after_the_solve_changes_nothing(kind):
    theta = THETA.copy()
    run = ao.solve(FIELDS[kind], theta, Y, (0, 1))
    before = discrete(run, Y)
    theta *= -1
    np.testing.assert_array_equal(discrete(run, Y).theta, before.theta)
    np.testing.assert_array_equal(run.theta, THETA)


def test_float32_answers_of_derivatives_have_the_dtype_of_y():
    answer = {"jvp": Y, "jacobian": np.ones((3, 2, 2)), "bilinear_vjp": (Y, np.ones(1))}
    field = PythonField(linear, 2, 1, **{name: (lambda *_, a=a: a) for name, a in answer.items()})
    y, theta = Y.astype(np.float32), np.ones(1, np.float32)
    parts = [field.jvp(0, y, theta, y), field.jacobian(0, y, theta), *field.bilinear_vjp(0, y, theta, y, y)]
    assert {p.dtype for p in parts} == {np.dtype(np.float32)}
    with pytest.raises(InputError, match="u and w must both have shape"):
        field.bilinear_vjp(0, y, theta, y, y[:2])


# --- a compiled field's functions -------------------------------------------------------------------------------------


@needs_numba
def test_a_plain_function_is_refused():
    with pytest.raises(InputError, match="a value made by numba.njit.*PythonField"):
        CompiledField(net_value, 2)
    with pytest.raises(InputError, match="a vjp made by numba.njit.*PythonField"):
        CompiledField(njit_value, 2, P, vjp=net_vjp)


@needs_numba
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda t, y: y, "4 argument types given, but function takes 2"),
        (lambda t, y, theta, out: out.no_such_thing(y), "Unknown attribute 'no_such_thing'"),
        (lambda t, y, theta, out: 2 * y, "must fill its last array in place and return nothing"),
    ],
)
def test_a_signature_that_does_not_fit_is_one_sentence(function, reason):
    field = CompiledField(numba.njit(function), 2)
    with pytest.raises(FieldError, match=f"the compiled value `<lambda>`.*{reason}") as caught:
        ao.solve(field, [], Y, (0, 1))
    assert len(str(caught.value)) < 500 and "pipeline" not in str(caught.value)


@needs_numba
def test_a_vjp_that_does_not_fit_is_refused_when_it_is_wanted():
    field = CompiledField(njit_value, N, P, vjp=njit_value)
    for use in (lambda: field.vjp(0, Y, THETA, Y), lambda: discrete(ao.solve(field, THETA, Y, (0, 1)), Y)):
        with pytest.raises(
            FieldError, match="the compiled vjp `njit_value`.*6 argument types given, but function takes 4"
        ):
            use()


@both
def test_counts_and_shapes_are_checked(kind):
    make = {"python": PythonField, "compiled": CompiledField}[kind]
    function = net_value if kind == "python" else njit_value
    for n, n_params in ((0, 1), (2.0, 1), (2, -1), (2, None)):
        with pytest.raises(InputError, match="n >= 1 components and n_params >= 0"):
            make(function, n, n_params)
    with pytest.raises(InputError, match=r"y must have shape \(batch, 2\)"):
        FIELDS[kind].value(0, Y.T, THETA)
    with pytest.raises(InputError, match=rf"theta must have shape \({P},\)"):
        FIELDS[kind].value(0, Y, THETA[1:])
