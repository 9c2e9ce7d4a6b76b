"""The whole objective: value, gradient and accounts of a loss, a head and penalties, refereed on the run's own grid."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
from frozen import (
    assert_directional,
    field_of,
    frozen,
    jacobian_measure,
    local_penalty,
    naive_jacobian,
    states_at,
    step_size,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import Network, parameters, seeds

import adaptode as ao
from adaptode.errors import InputError, MissingDerivativeError, NonFiniteLossError, SingularJacobianError, SolveError
from adaptode.fields import MLP, PythonField
from adaptode.regularize import ConditionNumber, JacobianNorm, LocalError
from adaptode.reservoir import held
from adaptode.training.heads import LinearHead
from adaptode.training.objective import Objective

# Large weights: each penalty is as large as the loss, so that none of them hides behind it.
CATALOGUE = {
    "unbiased": lambda: LocalError(ao.Linear(30.0, 10.0, 10)),
    "biased": lambda: LocalError(ao.Exponential(20.0, 5.0, 8), "biased", detach=()),
    "published": lambda: LocalError(30.0, "biased", step="initial", detach=("state", "k1")),
    "stiffness": lambda: LocalError(0.1, estimate="stiffness", detach=()),
    "frobenius": lambda: JacobianNorm("frobenius", ao.Cosine(0.5, 0.1, 9)),
    "spectral": lambda: JacobianNorm("spectral", 0.3),
    "condition": lambda: ConditionNumber(ao.InverseDecay(0.2, 0.5), floor=0.01),
}
SIZES = (2, 5, 2)
LOSSES = {"binary_cross_entropy": 1, "cross_entropy": 3, "mean_squared_error": 2}


def network(seed, time="every"):
    rng = np.random.default_rng(seed)
    return Network(
        SIZES, "tanh", time, "identity", "identity", parameters(seed, SIZES, time, 1.5), rng.normal(size=(4, 2)), 0.0
    )


def targets(loss, seed, batch=4):
    rng = np.random.default_rng(seed + 1)
    if loss == "mean_squared_error":
        return rng.normal(size=(batch, 2))
    return rng.integers(0, LOSSES[loss] if loss == "cross_entropy" else 2, size=batch)


def naive_loss(loss, z, y):
    if loss == "mean_squared_error":
        return np.mean((z - y) ** 2)
    if loss == "cross_entropy":
        return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y])
    return np.mean(naive.softplus(z[:, 0]) - y * z[:, 0])


class Referee:
    """The objective of one batch as a function of complex parameters, with all that is not differentiated frozen."""

    def __init__(self, objective, net, params, y, variates, step):
        self.objective, self.net, self.y = objective, net, y
        self.n = net.theta.size
        net = self.net = net._replace(theta=params[: self.n])
        t0, t1 = objective.tspan
        times = {
            p.times((t0, t1), v)[0] for p, v in zip(objective.penalties, variates, strict=True) if p.times((t0, t1), v)
        }
        self.run = objective.solve(params, net.y, saveat=sorted({*times, t1}, reverse=t1 < t0))
        self.terms = []
        for p, v in zip(objective.penalties, variates, strict=True):
            t = h = None
            if isinstance(p, LocalError):
                t = t0 + v * (t1 - t0) if p.sampling == "unbiased" else self.run.grid[held(int(v * 2**53), self.run.grid.size - 1)]
                u = states_at(self.run, frozen(self.run, net.naive, net.y), [t])[0]
                h = step_size(self.run, net, t, u, p.step)
            self.terms.append((p, p.weight(step), t, h))

    def measure(self, params):
        theta, phi, net, run, head = params[: self.n], params[self.n :], self.net, self.run, self.objective.head
        y1 = states_at(run, frozen(run, lambda t, y: net.naive(t, y, theta), net.y), [run.tspan[1]])[0]
        z = y1 if head is None else y1 @ phi[: 2 * head.n_out].reshape(2, -1) + phi[2 * head.n_out :]
        parts = [naive_loss(self.objective.loss, z, self.y)]
        for p, weight, t, h in self.terms:
            if isinstance(p, LocalError):
                parts.append(weight * local_penalty(run, net, t, h, theta, net.y, p.estimate, p.detach))
            else:
                J = naive_jacobian(net, run.tspan[0], net.y, theta)
                kind = p.kind if isinstance(p, JacobianNorm) else "condition"
                parts.append(weight * np.mean(jacobian_measure(J, kind, getattr(p, "floor", 0.0))))
        return parts

    def is_smooth(self):
        """Every estimate is clear of 0, and every pair of singular values of a tie."""
        for p, _, t, h in self.terms:
            if not isinstance(p, LocalError):
                s = np.linalg.svd(
                    naive_jacobian(self.net, self.run.tspan[0], self.net.y, self.net.theta), compute_uv=False
                )
                if min((1 - s[:, 1] / s[:, 0]).min(), (s[:, 1] / s[:, 0]).min()) < 1e-3:
                    return False
                continue
            u = states_at(self.run, frozen(self.run, self.net.naive, self.net.y), [t])[0]
            s = naive.step(self.net.naive, t, h, u, self.run.method, self.run.rtol[0], self.run.atol[0])
            distance = min(np.abs(x[-1] - x[-2]).max() for x in (s.Y, s.K))
            if (s.q if p.estimate == "error" else distance) < (1e-3 if p.estimate == "error" else 1e-5):
                return False
        return True


def check(loss, names, with_head, span, seed, step, method="Dopri5", controller=None, keep="states"):
    """Value, parts and gradient against the referee; False where the objective is too near a kink to tell."""
    net, rng = network(seed), np.random.default_rng(seed + 2)
    head = LinearHead(2, LOSSES[loss]) if with_head else None
    objective = Objective(
        field_of(net),
        loss,
        head=head,
        tspan=span,
        method=method,
        controller=controller,
        keep=keep,
        penalties=[CATALOGUE[n]() for n in names],
    )
    params = np.concatenate([net.theta, rng.normal(size=head.n_params if head else 0)])
    y = targets(loss, seed)
    variates = np.random.default_rng(seed).random(len(names))
    referee = Referee(objective, net, params, y, variates, step)
    if not referee.is_smooth():
        return False
    got = objective.value_and_grad(params, net.y, y, rng=np.random.default_rng(seed), step=step)

    assert list(got.parts)[0] == "task" and len(got.parts) == 1 + len(names)
    np.testing.assert_allclose(list(got.parts.values()), referee.measure(params), rtol=1e-7)
    assert got.loss == sum(got.parts.values()) and isinstance(got.loss, float)
    assert got.grad.shape == params.shape == (objective.n_params,)
    for direction in rng.normal(size=(2, params.size)):
        expected = np.imag(sum(referee.measure(params + 1e-30j * direction))) / 1e-30
        assert_directional(got.grad @ direction, expected, np.linalg.norm(got.grad), 1e-7 if names else 1e-10)
    return True


losses = st.sampled_from(list(LOSSES))
subsets = st.lists(st.sampled_from(list(CATALOGUE)), max_size=4)
SPANS = st.sampled_from([(0.0, 1.0), (0.0, -1.5)])


@settings(max_examples=60)
@given(losses, subsets, SPANS, seeds, st.integers(0, 12))
@example("cross_entropy", list(CATALOGUE), (0.0, 1.0), 0, 3)
@example("binary_cross_entropy", ["biased", "biased"], (0.0, -1.5), 1, 0)
def test_gradient_of_the_whole_by_complex_steps(loss, names, span, seed, step):
    assume(check(loss, names, True, span, seed, step))


@pytest.mark.parametrize("method", ["Tsit5", "Dopri5", "Dopri5_Shampine", "BS32"])
@pytest.mark.parametrize("controller", ["pi", "torchdiffeq"])
def test_methods_and_controllers(method, controller):
    names = ["unbiased", "biased", "frobenius"] + ["stiffness"] * (method != "BS32")
    for keep in ("states", "stages"):
        assert check("cross_entropy", names, True, (0.0, 1.0), 7, 2, method, controller, keep)


@pytest.mark.parametrize("names", [[], ["unbiased", "condition"]])
def test_without_a_head_the_state_is_the_output(names):
    assert check("mean_squared_error", names, False, (0.0, 1.0), 6, 0)
    net = network(3)
    objective = Objective(field_of(net), "mean_squared_error")
    run = objective.solve(net.theta, net.y)
    np.testing.assert_array_equal(objective.predict(net.theta, net.y), run.y1)
    np.testing.assert_array_equal(objective.output(net.theta, run), run.y1)


@pytest.mark.parametrize("names", [[], ["unbiased"]])
def test_every_entry_of_the_gradient(names):
    net, y, penalties = network(5), targets("cross_entropy", 5), [CATALOGUE[n]() for n in names]
    objective = Objective(field_of(net), "cross_entropy", head=LinearHead(2, 3), penalties=penalties)
    params = objective.init(0)
    got = objective.value_and_grad(params, net.y, y, rng=np.random.default_rng(0))
    referee = Referee(objective, net, params, y, np.random.default_rng(0).random(len(names)), 0)
    expected = naive.complex_gradient(lambda p: sum(referee.measure(p)), params)
    np.testing.assert_allclose(got.grad, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_a_schedule_scales_its_part_and_its_gradient_by_the_step():
    net, y = network(2), targets("mean_squared_error", 2)

    def evaluate(weight, step):
        objective = Objective(field_of(net), "mean_squared_error", penalties=[JacobianNorm("frobenius", weight)])
        return objective.value_and_grad(net.theta, net.y, y, rng=np.random.default_rng(0), step=step)

    scheduled = ao.Linear(1.0, 0.0, 4)
    for step, weight in ((0, 1.0), (3, 0.25), (4, 0.0), (99, 0.0)):
        a, b = evaluate(scheduled, step), evaluate(weight, 0)
        assert a.parts == b.parts
        np.testing.assert_array_equal(a.grad, b.grad)
    plain = Objective(field_of(net), "mean_squared_error").value_and_grad(
        net.theta, net.y, y, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(evaluate(0.0, 0).grad, plain.grad, rtol=1e-13)
    assert plain.loss == plain.parts["task"] == evaluate(0.0, 0).loss


def test_names_of_parts_are_told_apart():
    net = network(1)
    penalties = [LocalError(1.0), LocalError(2.0), JacobianNorm("spectral", 1.0), JacobianNorm("frobenius", 1.0)]
    objective = Objective(field_of(net), "mean_squared_error", penalties=penalties)
    parts = objective.value_and_grad(
        net.theta, net.y, targets("mean_squared_error", 1), rng=np.random.default_rng(0)
    ).parts
    assert list(parts) == ["task", "local_error_1", "local_error_2", "spectral", "frobenius"]


def test_deterministic_given_the_generator_and_only_that():
    net, y = network(4), targets("mean_squared_error", 4)
    objective = Objective(
        field_of(net),
        "mean_squared_error",
        penalties=[LocalError(10.0), JacobianNorm("frobenius", 1.0), LocalError(10.0, "biased")],
    )
    rng = np.random.default_rng(9)
    first, second = (objective.value_and_grad(net.theta, net.y, y, rng=rng) for _ in range(2))
    rng = np.random.default_rng(9)
    rng.random(3)  # one variate a penalty, whether it needs it or not
    again = objective.value_and_grad(net.theta, net.y, y, rng=rng)
    assert again.loss == second.loss and again.grad.tobytes() == second.grad.tobytes()
    assert first.parts["local_error_1"] != second.parts["local_error_1"]
    assert first.parts["frobenius"] == second.parts["frobenius"]


def test_a_step_down_the_gradient_lowers_the_objective():
    net, y = network(6), targets("mean_squared_error", 6)
    objective = Objective(
        field_of(net), "mean_squared_error", rtol=1e-6, atol=1e-6, penalties=[JacobianNorm("frobenius", 0.1)]
    )
    at = objective.value_and_grad(net.theta, net.y, y, rng=np.random.default_rng(0))
    moved = objective.value_and_grad(net.theta - 1e-4 * at.grad, net.y, y, rng=np.random.default_rng(0))
    assert moved.loss - at.loss == pytest.approx(-1e-4 * at.grad @ at.grad, rel=1e-2)


# --- accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["states", "stages"])
@pytest.mark.parametrize("names", [[], ["unbiased"], ["biased", "published", "frobenius"]])
def test_evaluations_are_those_that_were_made(names, keep):
    net, counts = network(2), {"value": 0, "vjp": 0}
    mlp = field_of(net)

    def counted(name):
        def call(*arguments):
            counts[name] += 1
            return getattr(mlp, name)(*arguments)

        return call

    field = PythonField(
        counted("value"), 2, mlp.n_params, vjp=counted("vjp"), jacobian=mlp.jacobian, bilinear_vjp=mlp.bilinear_vjp
    )
    objective = Objective(field, "mean_squared_error", keep=keep, penalties=[CATALOGUE[n]() for n in names])
    got = objective.value_and_grad(net.theta, net.y, targets("mean_squared_error", 2), rng=np.random.default_rng(0))
    assert got.nfe_forward + got.nfe_backward == counts["value"] + counts["vjp"]
    counts.update(value=0)
    objective.predict(net.theta, net.y)
    plain = counts["value"]
    extra = {"unbiased": 7, "biased": 0, "published": 9, "frobenius": 0}  # biased and exact: the solver's own step
    assert got.nfe_forward == plain + sum(extra[n] for n in names)
    white = Objective(mlp, "mean_squared_error", keep=keep, penalties=[CATALOGUE[n]() for n in names])
    same = white.value_and_grad(net.theta, net.y, targets("mean_squared_error", 2), rng=np.random.default_rng(0))
    assert same.nfe_forward == got.nfe_forward
    assert got.error == pytest.approx(objective.solve(net.theta, net.y).accepted("error").max(), rel=1e-12)


def test_float32():
    net, y = network(3), targets("cross_entropy", 3)
    evaluations = []
    for dtype in ("float32", "float64"):
        objective = Objective(
            field_of(net),
            "cross_entropy",
            head=LinearHead(2, 3),
            dtype=dtype,
            penalties=[CATALOGUE["frobenius"](), CATALOGUE["unbiased"]()],
        )
        params = objective.init(0)
        evaluations.append(objective.value_and_grad(params, net.y, y, rng=np.random.default_rng(0)))
        assert params.dtype == evaluations[-1].grad.dtype == objective.predict(params, net.y).dtype == dtype
    a, b = evaluations
    assert a.loss == pytest.approx(b.loss, rel=1e-2)
    assert np.linalg.norm(a.grad - b.grad) < 0.05 * np.linalg.norm(b.grad)
    assert type(a.loss) is float and all(type(v) is float for v in a.parts.values())


# --- arguments --------------------------------------------------------------------------------------------------------


def test_bad_combinations_are_named_at_construction():
    good, narrow, rough = MLP((2, 3, 2)), MLP((3, 2, 3)), MLP((2, 3, 2), activation="relu")
    mse, no_vjp = "mean_squared_error", PythonField(good.value, 2, good.n_params)
    no_jacobian = PythonField(good.value, 2, good.n_params, vjp=good.vjp)
    spectral, stiffness = {"penalties": [JacobianNorm("spectral", 1.0)]}, LocalError(1.0, estimate="stiffness")
    for field, loss, options, error, message in (
        (good, "mse", {}, InputError, "unknown loss 'mse'; known: binary_cross_entropy, cross_entropy"),
        (good, mse, {"head": LinearHead(3, 1)}, InputError, "head takes 3 inputs, but the field has 2 components"),
        (good, mse, {"dtype": "float16"}, InputError, "dtype must be float64 or float32"),
        (good, mse, {"tspan": (0, np.inf)}, InputError, "tspan must be finite"),
        (good, mse, {"method": "RK5"}, InputError, "unknown method"),
        (good, mse, {"controller": "mine"}, InputError, "unknown controller"),
        (good, mse, {"rtol": -1.0}, InputError, "rtol"),
        (good, mse, {"rtol": 1e-17, "atol": 0.0}, InputError, "rtol must be at least"),
        (good, mse, {"method": "RK4", "penalties": [LocalError(1.0)]}, InputError, "RK4 has no error estimate"),
        (good, mse, {"method": "Euler"}, InputError, "training needs an adaptive method: Tsit5, Dopri5, Dopri5_Shampine, BS32"),
        (good, mse, {"penalties": JacobianNorm("spectral", 1.0)}, InputError, r"for a single one write penalties=\[JacobianNorm"),
        (good, mse, {"penalties": "spectral"}, InputError, "penalties must be a list such as .*got 'spectral'"),
        (good, mse, {"penalties": None}, InputError, "penalties must be a list such as .*got None"),
        (good, mse, {"method": "BS32", "penalties": [stiffness]}, InputError, "BS32 has not"),
        (rough, mse, spectral, MissingDerivativeError, "relu"),
        (narrow, mse, {"penalties": [ConditionNumber(1.0)]}, SingularJacobianError, "rank at most 2"),
        (no_vjp, mse, {}, MissingDerivativeError, "has no `vjp`"),
        (no_jacobian, mse, spectral, MissingDerivativeError, "has no `jacobian`"),
    ):
        with pytest.raises(error, match=message):
            Objective(field, loss, **options)
    Objective(rough, mse, penalties=[LocalError(1.0)])


def test_bad_batches_are_named():
    net = network(0)
    objective = Objective(field_of(net), "cross_entropy", head=LinearHead(2, 3))
    params, rng = objective.init(0), np.random.default_rng(0)
    for bad in (params[:-1], params[None]):
        with pytest.raises(InputError, match=rf"\({objective.n_params},\)"):
            objective.value_and_grad(bad, net.y, np.zeros(4, int), rng=rng)
    with pytest.raises(InputError, match="batch"):
        objective.value_and_grad(params, net.y[:, :1], np.zeros(4, int), rng=rng)
    with pytest.raises(InputError, match=r"labels \(B,\)"):
        objective.value_and_grad(params, net.y, np.zeros(3, int), rng=rng)
    with pytest.raises(InputError, match="y0.*nan"):
        objective.value_and_grad(params, np.full((4, 2), np.nan), np.zeros(4, int), rng=rng)
    explosive = Objective(MLP((1, 1), preactivation="cube"), "mean_squared_error", max_steps=50)
    start, params = np.array([[5.0]]), np.array([1.0, 0.0])
    for call in (lambda: explosive.value_and_grad(params, start, [[0.0]], rng=rng), lambda: explosive.predict(params, start)):
        with pytest.raises(SolveError) as caught:
            call()
        run = caught.value.run  # a record, whatever becomes of the arrays
        assert run.y0 == start and not np.shares_memory(run.y0, start) and not np.shares_memory(run.theta, params)


@pytest.mark.parametrize("coordinates", ["state", "hidden"])
def test_a_run_whose_way_back_failed_is_a_record(coordinates):
    objective = Objective(MLP((2, 3, 2)), "mean_squared_error", adjoint="backsolve", adjoint_options={"max_steps": 1}, coordinates=coordinates)
    params, X = objective.init(0), np.ones((2, 2))
    with pytest.raises(SolveError, match="the backward solve") as caught:
        objective.value_and_grad(params, X, np.zeros((2, 2)), rng=np.random.default_rng(0))
    run = caught.value.run
    states = run.states.copy()
    params[:], X[:] = np.nan, np.nan
    assert np.isfinite(states).all() and np.array_equal(run.states, states) and np.array_equal(run.lifted().states, states)


def test_an_overflow_in_the_head_is_a_loss_that_is_not_a_number():
    """Not an argument that makes no sense: the training says at which step it happened."""
    net = network(0)
    objective = Objective(field_of(net), "cross_entropy", head=LinearHead(2, 3))
    params = np.concatenate([net.theta, np.full(9, 1e308)])
    with np.errstate(all="ignore"):
        evaluation = objective.value_and_grad(params, net.y, np.zeros(4, int), rng=np.random.default_rng(0))
        assert np.isnan(evaluation.loss) and np.isnan(evaluation.grad).any() and evaluation.grad.shape == params.shape
        with pytest.raises(NonFiniteLossError, match="training step 0: the loss or its gradient"):
            ao.fit(objective, net.y, np.zeros(4, int), params=params, steps=1)


def test_init_is_the_fields_then_the_heads():
    net = network(0)
    objective = Objective(field_of(net), "cross_entropy", head=LinearHead(2, 3))
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(
        objective.init(3), np.concatenate([objective.field.init(rng), objective.head.init(rng)])
    )
    theta, phi = objective.split(objective.init(3))
    assert (theta.size, phi.size) == (objective.field.n_params, 9)


def test_config_is_json_and_tells_objectives_apart():
    net = network(0)
    base = {"head": LinearHead(2, 3), "penalties": [CATALOGUE["biased"](), CATALOGUE["condition"]()]}

    def config(**changes):
        made = Objective(
            changes.pop("field", field_of(net)), changes.pop("loss", "cross_entropy"), **{**base, **changes}
        ).config()
        assert json.loads(json.dumps(made, allow_nan=False)) == made
        return made

    variants = [
        config(),
        config(loss="mean_squared_error"),
        config(head=None),
        config(tspan=(0, 2)),
        config(rtol=np.float32(1e-2)),
        config(rtol=np.array([1e-3, 1e-2])),
        config(atol=1e-6),
        config(max_steps=np.int64(7)),
        config(method="Tsit5"),
        config(controller="scipy"),
        config(dtype="float32"),
        config(keep="stages"),
        config(penalties=[]),
        config(penalties=[CATALOGUE["biased"](), ConditionNumber(1.0)]),
        config(field=MLP(SIZES)),
        config(field=PythonField(net.naive, 2, net.theta.size, vjp=lambda *_: None), penalties=[]),
    ]
    assert all(a != b for k, a in enumerate(variants) for b in variants[:k])
    assert config() == variants[0]
