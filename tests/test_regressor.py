"""The regressor of time series: scikit-learn's own checks, learning, windows, learned starts, resuming, bad input."""

import json
import os
import pickle

import numpy as np
import pytest
from frozen import assert_directional, field_of, frozen, states_at
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_pointwise import NET, Cubes

import adaptode as ao
from adaptode.datasets import load_hudson_bay, make_spiral
from adaptode.errors import CheckpointError, InputError, SolveError
from adaptode.models import NeuralODERegressor
from adaptode.regularize import JacobianNorm, LocalError, Steer
from adaptode.training import FirstComponents, LearnedStart

ONE = "the check cuts X to one dimension, as the tag one_d_array asks, and then indexes two"
FAILS = dict.fromkeys(
    """check_dont_overwrite_parameters check_n_features_in_after_fitting check_dtype_object check_estimator_sparse_array check_f_contiguous_array_estimator
    check_regressors_no_decision_function check_methods_sample_order_invariance check_methods_subset_invariance check_fit2d_1sample check_fit2d_1feature
    check_dict_unchanged check_n_features_in check_fit2d_predict1d""".split(),
    ONE,
) | {"check_fit1d": "times may be one-dimensional"}


def small(**options):
    return NeuralODERegressor(**{"hidden": (8,), "epochs": 3, "random_state": 0, **options})


@parametrize_with_checks([small(hidden=(2,), epochs=1, rtol=1e-2, atol=1e-2)], expected_failed_checks=lambda _: FAILS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def turn():
    """One turn of a circle that shrinks: (k,), (k, 2)."""
    t = np.linspace(0.0, 6.0, 25)
    return t, np.exp(-0.1 * t)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)


@pytest.fixture(scope="module")
def turns(turn):
    """Two of them, of different sizes and centres: (k, 2, 2)."""
    t, y = turn
    return t, np.stack([y, 3.0 - 0.5 * y], axis=1)


def test_defaults_are_stored_as_given():
    assert NeuralODERegressor().get_params() == {
        "hidden": (50,), "activation": "tanh", "time": "none", "preactivation": "identity", "augment": 0, "initial": "first", "normalize": True,
        "t1": None, "method": "Dopri5", "controller": None, "rtol": 1e-4, "atol": 1e-4, "penalties": (), "adjoint": "discrete", "learning_rate": 0.01,
        "weight_decay": 0.0, "batch_time": None, "batch_size": None, "epochs": 500, "dtype": "float64", "progress": False, "checkpoint": None,
        "resume": False, "warm_start": False, "random_state": None,
    }  # fmt: skip
    assert ao.NeuralODERegressor is NeuralODERegressor


@pytest.mark.parametrize("options", [{}, {"initial": "learn"}, {"batch_time": 6, "batch_size": 10, "epochs": 80}, {"dtype": "float32"}])
def test_learns(turn, options):
    t, y = turn
    model = small(**{"epochs": 150, "hidden": (16,), "learning_rate": 0.03, **options}).fit(t, y)
    assert model.score(t, y) > 0.99
    assert model.predict(t).shape == (25, 2) and model.n_features_in_ == 1 and model.n_iter_ == model.epochs
    assert model.history_.column("loss")[-1] < 0.01 * model.history_.column("loss")[0]
    assert model.n_function_evaluations(t) == sum(run.nfev for _, run in model._runs(t)) > 0


def test_is_the_objective_under_fit(turns):
    """The estimator adds nothing to the numbers of `Objective` and `fit` but the scales."""
    t, y = turns
    penalties = [LocalError(0.1), JacobianNorm("frobenius", 0.01)]
    options = {"rtol": 1e-3, "atol": 1e-5, "penalties": penalties, "controller": "torchdiffeq", "method": "Tsit5"}
    model = small(**options, activation="softplus", time="every", preactivation="sine", t1=2.0, weight_decay=0.1, batch_size=1).fit(t + 5.0, y)
    mean, deviation = y.mean(axis=(0, 1)), y.std(axis=(0, 1))
    z, tau = (y - mean) / deviation, t / 3.0
    field = ao.MLP((2, 8, 2), activation="softplus", time="every", preactivation="sine")
    objective = ao.Objective(field, "mean_squared_error", tspan=(0.0, 2.0), times=tau[1:], **options)
    result = ao.fit(objective, z[0], z[1:].swapaxes(0, 1), optimizer=ao.Adam(0.01, weight_decay=0.1), epochs=3, batch_size=1, rng=0)
    np.testing.assert_allclose(model.params_, result.params, rtol=1e-9, atol=1e-12)
    assert len(model.history_) == 6 and model.history_.names == result.history.names
    expected = np.stack([z[0], *objective.predict(result.params, z[0]).swapaxes(0, 1)])
    np.testing.assert_allclose(model.predict(t + 5.0), mean + deviation * expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.initial_state_, y[0], rtol=1e-14)


def test_windows_are_the_objective_under_fit(turns):
    """A window is a sample: its first state, and the others as targets."""
    t, y = turns
    model = small(batch_time=4, batch_size=7, normalize=False).fit(t, y)
    starts = np.concatenate([y[s] for s in range(22)])
    targets = np.concatenate([y[s + 1 : s + 4].swapaxes(0, 1) for s in range(22)])
    objective = ao.Objective(ao.MLP((2, 8, 2)), "mean_squared_error", tspan=(0.0, 0.75), times=[0.25, 0.5, 0.75], rtol=1e-4, atol=1e-4)
    result = ao.fit(objective, starts, targets, optimizer=ao.Adam(0.01), epochs=3, batch_size=7, rng=0)
    np.testing.assert_allclose(model.params_, result.params, rtol=1e-9, atol=1e-12)
    assert len(model.history_) == 3 * 7
    np.testing.assert_array_equal(model.initial_state_, y[0])  # predictions start from the first observation all the same


def test_shapes_follow_y(turns):
    t, y = turns
    for some in (y, y[:, 0], y[:, 0, 0], y[:, 0, :1], y[:, :, :1]):
        model = small().fit(t, some)
        assert model.predict(t[:4]).shape == (4, *some.shape[1:]) and model.initial_state_.shape == some.shape[1:]
        np.testing.assert_allclose(model.predict(t[:1])[0], some[0], rtol=1e-12)
        np.testing.assert_array_equal(model.predict(t[:, None]), model.predict(t))
        flat = [a.reshape(25, -1) for a in (some, model.predict(t))]
        assert model.score(t, some) == pytest.approx(r2_score(*flat), abs=1e-12)


def test_rows_may_be_in_any_order(turn):
    t, y = turn
    order = np.random.default_rng(0).permutation(t.size)
    model, mixed = small().fit(t, y), small().fit(t[order], y[order])
    np.testing.assert_array_equal(mixed.params_, model.params_)
    np.testing.assert_array_equal(model.predict(t[order]), model.predict(t)[order])
    np.testing.assert_array_equal(model.predict([3.0, 3.0]), model.predict([3.0])[[0, 0]])
    twice = small().fit(np.repeat(t, 2), np.repeat(y, 2, axis=0) + np.tile([[0.1], [-0.1]], (25, 1)))
    np.testing.assert_allclose(twice.predict(t), model.predict(t), rtol=1e-9)


def test_held_out_times(turn):
    t, y = turn
    t_train, t_test, y_train, y_test = train_test_split(t, y, random_state=1)
    assert 0.0 in t_train
    assert small(epochs=150, hidden=(16,), learning_rate=0.03).fit(t_train, y_train).score(t_test, y_test) > 0.98


def test_times_after_and_before_the_data(turn):
    """There and back: what starts before is carried to the first observation."""
    t, y = turn
    model = small(epochs=100, learning_rate=0.03, rtol=1e-8, atol=1e-8).fit(t, y)
    wide = model.predict([-1.0, 0.0, 7.0])
    theta, scale = model.params_, y.std(axis=0)
    for i, end in ((0, -1.0), (2, 7.0)):
        run = ao.solve(model.objective_.field, theta, (wide[i] - y.mean(axis=0))[None] / scale, (end, 0.0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(run.y1[0] * scale + y.mean(axis=0), y[0], atol=1e-5)
    assert model.n_function_evaluations([-1.0, 7.0]) == model.n_function_evaluations([-1.0]) + model.n_function_evaluations([7.0])


def test_a_part_of_the_times_agrees_within_the_tolerance(turn):
    t, y = turn
    for tolerance in (1e-3, 1e-6):
        model = small(rtol=tolerance, atol=tolerance).fit(t, y)
        assert np.abs(model.predict(t)[:9] - model.predict(t[:9])).max() < 30 * tolerance


def test_units_do_not_matter(turn):
    """Normalised, with t1 given: other units and another origin of t and y are the same training."""
    t, y = turn
    model, other = small(t1=3.0).fit(t, y), small(t1=3.0).fit(1900.0 + 365.0 * t, 1e3 * y - 7.0)
    np.testing.assert_allclose(other.params_, model.params_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.predict(1900.0 + 365.0 * t), 1e3 * model.predict(t) - 7.0, rtol=1e-6, atol=1e-4)


def test_augmented_dimensions_remember():
    """y = cos t alone is no flow on a line; with a second component it is."""
    t = np.linspace(0.0, 7.0, 30)
    options = {"hidden": (16,), "epochs": 200, "learning_rate": 0.03}
    flat, free = (small(**options, augment=k).fit(t, np.cos(t)) for k in (0, 1))
    assert flat.score(t, np.cos(t)) < 0.7 and free.score(t, np.cos(t)) > 0.98
    assert free.objective_.field.sizes == (2, 16, 2) and free.predict(t).shape == (30,)
    assert small(augment=2, initial="learn").fit(t, np.cos(t)).predict(t).shape == (30,)


def test_first_components_are_a_head():
    head, rng = FirstComponents(5, 2), np.random.default_rng(0)
    x, out_bar = rng.normal(size=(4, 5)), rng.normal(size=(4, 2))
    phi = head.init(rng)
    np.testing.assert_array_equal(head.value(phi, x), x[:, :2])
    x_bar, phi_bar = head.vjp(phi, x, out_bar)
    assert phi.size == phi_bar.size == head.n_params == 0
    assert np.vdot(x_bar, x) == pytest.approx(np.vdot(out_bar, head.value(phi, x)))
    assert head.config() != ao.LinearHead(5, 2).config()
    with pytest.raises(InputError, match="no 3 first components"):
        FirstComponents(2, 3)
    with pytest.raises(InputError, match="FirstComponents: n_out must be a whole number"):
        FirstComponents(2, 0)


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("penalties", [[], [Cubes(0.3, at="path")]])
def test_the_gradient_of_the_starts(penalties, adjoint):
    """Of the loss by a complex step on the frozen grid; of penalties by differences of the training's own numbers."""
    times, tight = [0.0, 0.4, 1.0], 1e-4 if adjoint == "discrete" else 1e-10
    objective = ao.Objective(field_of(NET), "mean_squared_error", times=times, penalties=penalties, rtol=tight, atol=tight, adjoint=adjoint)
    learned, rng = LearnedStart(objective, NET.y), np.random.default_rng(3)
    params = np.concatenate([NET.theta, NET.y.ravel()])
    rows, y = np.array([2, 0]), rng.normal(size=(2, 3, 2))
    got = learned.value_and_grad(params, rows, y, rng=np.random.default_rng(0))
    p_bar, start_bar = learned.split(got.grad)
    alone = objective.value_and_grad(NET.theta, NET.y[rows], y, rng=np.random.default_rng(0), start=True)
    np.testing.assert_array_equal(p_bar, alone.grad)
    np.testing.assert_array_equal(start_bar, [alone.start[1], [0.0, 0.0], alone.start[0]])
    direction = rng.normal(size=(2, 2))
    if penalties:

        def at(eps):
            return objective.value_and_grad(NET.theta, NET.y[rows] + eps * direction, y, rng=np.random.default_rng(0)).loss

        tight_enough = 1e-6 if adjoint == "interpolating" else 2e-2  # the grid moves with the start; at a tight tolerance that is not seen
        assert (at(1e-6) - at(-1e-6)) / 2e-6 == pytest.approx(np.vdot(alone.start, direction), rel=tight_enough, abs=1e-3)
    else:
        run = objective.solve(NET.theta, NET.y[rows])
        states = states_at(run, frozen(run, lambda t, u: NET.naive(t, u, NET.theta), NET.y[rows] + 1e-30j * direction), times)
        exact = np.imag(np.mean((states.transpose(1, 0, 2) - y) ** 2)) / 1e-30
        assert_directional(np.vdot(alone.start, direction), exact, np.linalg.norm(alone.start), 1e-10 if adjoint == "discrete" else 1e-6)


def test_a_learned_start_forgets_the_noise(turn):
    t, y = turn
    noisy = y.copy()
    noisy[0] += [0.3, -0.3]
    options = {"epochs": 200, "hidden": (16,), "learning_rate": 0.03}
    first, learned = small(**options).fit(t, noisy), small(**options, initial="learn").fit(t, noisy)
    np.testing.assert_allclose(first.initial_state_, noisy[0])
    gaps = [np.linalg.norm(model.initial_state_ - y[0]) for model in (first, learned)]
    assert gaps[1] < 0.85 * gaps[0] and learned.score(t, y) > first.score(t, y)
    assert learned.params_.shape == (learned.objective_.n_params,)


def test_learned_starts_in_batches(turns):
    t, y = turns
    model = small(initial="learn", batch_size=1, epochs=4).fit(t, y)
    assert len(model.history_) == 8 and model.initial_state_.shape == (2, 2)
    assert (np.abs(model.initial_state_ - y[0]) > 1e-4).all()
    objective = LearnedStart(model.objective_, np.zeros((2, 2)))
    assert json.loads(json.dumps(objective.config())) == objective.config() != LearnedStart(model.objective_, np.ones((2, 2))).config()
    assert objective.by_epochs(3).objective.steps_per_epoch == 3
    for bad in (np.zeros((2, 3)), np.zeros(2), np.zeros((0, 2))):
        with pytest.raises(InputError, match=r"initial states \(N, 2\)"):
            LearnedStart(model.objective_, bad)
    with pytest.raises(InputError, match="params must have shape"):
        objective.split(np.zeros(3))


def test_a_constant_component_stays(turn):
    t, y = turn
    still = np.column_stack([y[:, 0], np.full(t.size, 7.0)])
    model = small().fit(t, still)
    assert np.isfinite(model.predict(t)).all() and model._deviation[1] == 1.0


@pytest.mark.parametrize("options", [{}, {"initial": "learn"}, {"batch_time": 5, "batch_size": 6}])
def test_resume(turn, tmp_path, options):
    t, y = turn
    first = small(**options, checkpoint=tmp_path).fit(t, y)
    resumed = small(**options, checkpoint=tmp_path, resume=True, epochs=6).fit(t, y)
    whole = small(**options, epochs=6).fit(t, y)
    assert resumed.n_iter_ == 6 and (resumed.history_.column("loss")[: len(first.history_)] == first.history_.column("loss")).all()
    np.testing.assert_array_equal(resumed.params_, whole.params_)
    np.testing.assert_array_equal(resumed.initial_state_, whole.initial_state_)
    with pytest.raises(CheckpointError, match="another training"):
        small(**options, checkpoint=tmp_path, resume=True, epochs=6, t1=2.0).fit(t, y)


def test_warm_start(turn):
    """From windows to whole series: the parameters go on, the optimizer starts anew."""
    t, y = turn
    model = small(batch_time=6, epochs=2).fit(t, y)
    params = model.params_.copy()
    model.set_params(batch_time=None, warm_start=True, learning_rate=1e-3).fit(t, y)
    field, z = ao.MLP((2, 8, 2)), (y - y.mean(axis=0)) / y.std(axis=0)
    objective = ao.Objective(field, "mean_squared_error", tspan=(0.0, 6.0), times=t[1:], rtol=1e-4, atol=1e-4)
    result = ao.fit(objective, z[:1], z[None, 1:], optimizer=ao.Adam(1e-3), epochs=2, rng=0, params=params)
    np.testing.assert_allclose(model.params_, result.params, rtol=1e-9, atol=1e-12)
    learned = model.set_params(initial="learn", learning_rate=0.0).fit(t, y)
    np.testing.assert_array_equal(learned.params_, model.params_)
    with pytest.raises(InputError, match="warm_start goes on from parameters of another field: hidden=.* has 4[0-9] of them, fitted were 42"):
        model.set_params(hidden=(9,)).fit(t, y)


def test_pickle_clone_and_settings_after_fit(turn):
    t, y = turn
    model = small().fit(t, y)
    before = model.predict(t)
    assert (pickle.loads(pickle.dumps(model)).predict(t) == before).all()
    assert (clone(model).fit(t, y).params_ == model.params_).all()
    model.set_params(hidden=(3,), t1=2.0, normalize=False, augment=1)
    assert (model.predict(t) == before).all()


def test_ctrl_c_keeps_the_model(turn, monkeypatch):
    t, y = turn
    original = ao.Objective.value_and_grad

    def value_and_grad(self, *arguments, step, **options):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, *arguments, step=step, **options)

    monkeypatch.setattr(ao.Objective, "value_and_grad", value_and_grad)
    with pytest.warns(RuntimeWarning, match="interrupted after 2 steps"):
        model = small(epochs=9).fit(t, y)
    assert model.n_iter_ == 2 and model.predict(t).shape == y.shape


def test_a_prediction_that_runs_away():
    t = np.linspace(0.0, 1.0, 12)
    model = small(activation="identity", hidden=(), learning_rate=0.1, epochs=100, normalize=False).fit(t, np.exp(t))
    assert model.score(t, np.exp(t)) > 0.99
    with pytest.raises(SolveError):
        model.predict([5000.0])


@pytest.fixture
def no_work(monkeypatch):
    def never(*_, **__):
        pytest.fail("work was done before the arguments were checked")

    monkeypatch.setattr(ao.Objective, "solve", never)


def spoiled(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, y: (spoiled(t, np.nan), y), "X contains NaN"),
        (lambda t, y: (t, spoiled(y, np.inf)), "y contains infinity"),
        (lambda t, y: (t, None), "requires y to be passed"),
        (lambda t, y: (t[:-1], y), "inconsistent numbers of samples"),
        (lambda t, y: (np.column_stack([t, t]), y), r"X must be times, \(k,\) or \(k, 1\); got shape \(25, 2\)"),
        (lambda t, y: (t, y[:, None, None]), r"y must be observations .*got shape \(25, 1, 1, 2\)"),
        (lambda t, y: (t, y[:, :0]), "not empty|0 feature"),
        (lambda t, y: (t[:1], y[:1]), "two different times"),
        (lambda t, y: (np.ones(25), y), "two different times at least; X has n_samples = 25, all at 1"),
        (lambda t, y: (np.array(["June"] * 25), y), "could not convert"),
        (lambda t, y: (t, 1e200 * y), "too large for their mean"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_bad_data(turn, change, match):
    with pytest.raises(InputError, match=match):
        small().fit(*change(*turn))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": 8}, r"for a single layer write hidden=\(8,\)"),
        ({"initial": "last"}, "initial must be 'first' or 'learn', not 'last'"),
        ({"normalize": "yes"}, "normalize must be True or False"),
        ({"t1": 0.0}, "t1 must be a finite time"),
        ({"t1": "late"}, "t1 must be a finite time"),
        ({"augment": -1}, "dimensions to augment by"),
        ({"batch_time": 1}, "from 2 to the 25 that there are; got 1"),
        ({"batch_time": 26}, "from 2 to the 25 that there are; got 26"),
        ({"batch_time": 2.5}, "batch_time must be"),
        ({"batch_time": 5, "time": "first"}, "need time='none'"),
        ({"batch_time": 5, "initial": "learn"}, "need initial='first'"),
        ({"batch_time": 5, "augment": 1}, "need augment=0"),
        ({"preactivation": "square"}, "square"),
        ({"penalties": [Steer(0.5)]}, "Steer moves the end of the span, and observation times are fixed"),
        ({"penalties": LocalError(1.0)}, r"penalties=\[LocalError"),
        ({"adjoint": "magic"}, "unknown adjoint"),
        ({"method": "Euler"}, "no error estimate"),
        ({"rtol": -1.0}, "rtol"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"random_state": "x"}, "seed"),
        ({"resume": True}, "resume"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_bad_settings(turn, options, match):
    model = small(**options)  # stores, and says nothing
    with pytest.raises(InputError, match=match):
        model.fit(*turn)


@pytest.mark.usefixtures("no_work")
def test_windows_need_equally_spaced_times(turn):
    t, y = turn
    with pytest.raises(InputError, match=r"equally spaced times; from t = 1.75 to the next it is 0.27, on average 0.25. Leave out batch_time"):
        small(batch_time=5).fit(np.where(t == 2.0, 2.02, t), y)


def test_after_fit(turn):
    t, y = turn
    for method in ("predict", "n_function_evaluations"):
        with pytest.raises(NotFittedError):
            getattr(small(), method)(t)
    model = small().fit(t, y)
    for bad, match in ((np.column_stack([t, t]), "must be times"), ([np.nan], "NaN"), ([], "0 sample"), (["June"], "could not convert")):
        with pytest.raises(InputError, match=match):
            model.predict(bad)
    with pytest.raises(InputError, match=r"y must have the shape of the prediction, \(25, 2\); got \(25, 3\)"):
        model.score(t, np.zeros((25, 3)))
    weights = np.arange(25.0)
    assert model.score(t, y, weights) == pytest.approx(r2_score(y, model.predict(t), sample_weight=weights))


def test_the_spiral():
    t, y = make_spiral(80, t1=2.0)
    model = NeuralODERegressor(
        (50,), preactivation="cube", normalize=False, batch_time=10, batch_size=20, epochs=100, learning_rate=ao.Cosine(0.03, 0.0, 400), random_state=0
    )
    assert model.fit(t, y).score(t, y) > 0.97


@pytest.mark.skipif(not os.environ.get("ADAPTODE_DATA"), reason="ADAPTODE_DATA is not set: no table of pelts to read")
def test_hudson_bay():
    t, y = load_hudson_bay()
    model = small(hidden=(32,), t1=5.0, epochs=150, batch_time=6, batch_size=4, rtol=1e-3, atol=1e-3).fit(t, y)
    assert model.score(t, y) > 0.85
