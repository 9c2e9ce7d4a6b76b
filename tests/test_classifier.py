"""The classifier: scikit-learn's own checks, learning, resuming, bad input."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import adaptode
from adaptode.errors import CheckpointError, InputError, MissingDerivativeError, NonFiniteLossError
from adaptode.models import NeuralODEClassifier, base, classifier
from adaptode.regularize import JacobianNorm, LocalError
from adaptode.schedules import Cosine
from adaptode.training import load_run

JOINTLY = "samples are stepped jointly: each one's logits depend on the others, within the tolerance of the solver"


def small(**options):
    return NeuralODEClassifier(**{"hidden": (8,), "epochs": 25, "learning_rate": 0.1, "random_state": 0, **options})


@pytest.fixture(scope="module")
def moons():
    return make_moons(120, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(90, centers=[[0, 3], [3, 0], [-3, -3]], cluster_std=0.6, random_state=0)
    return X, np.array(["ash", "birch", "cedar"])[y]


@parametrize_with_checks([small()], expected_failed_checks=lambda _: {"check_methods_subset_invariance": JOINTLY})
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn(estimator, check):
    check(estimator)


def test_a_subset_agrees_within_the_tolerance(moons):
    X, y = moons
    for tolerance in (1e-3, 1e-6, 1e-9):
        model = small(rtol=tolerance, atol=tolerance, epochs=5).fit(X, y)
        gap = np.abs(model.decision_function(X)[:10] - model.decision_function(X[:10])).max()
        assert gap < 30 * tolerance


def test_defaults_are_stored_as_given():
    model = NeuralODEClassifier()
    assert model.get_params() == {
        "hidden": (64, 64), "activation": "tanh", "time": "none", "augment": 0, "method": "Dopri5", "controller": None, "rtol": 1e-3,
        "atol": 1e-3, "t1": 1.0, "penalties": (), "adjoint": "discrete", "learning_rate": 0.01, "weight_decay": 0.0, "batch_size": None,
        "epochs": 100, "dtype": "float64", "progress": False, "checkpoint": None, "resume": False, "random_state": None,
    }  # fmt: skip
    assert adaptode.NeuralODEClassifier is NeuralODEClassifier


def test_learns_two_classes(moons):
    X, y = moons
    model = small(epochs=60).fit(X, y)
    assert model.score(X, y) > 0.97
    logits, probabilities = model.decision_function(X), model.predict_proba(X)
    assert logits.shape == (120,) and probabilities.shape == (120, 2)
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-logits)), atol=1e-15)
    assert (model.predict(X) == (logits > 0)).all()
    assert model.n_features_in_ == 2 and model.n_iter_ == 60 and len(model.history_) == 60
    assert model.params_.shape == (model.objective_.n_params,) == (2 * 8 + 8 + 8 * 2 + 2 + 3,)


def test_learns_three_classes_by_name(blobs):
    X, y = blobs
    model = small(epochs=50).fit(X, y)
    assert model.score(X, y) > 0.97 and model.classes_.tolist() == ["ash", "birch", "cedar"]
    logits, probabilities = model.decision_function(X), model.predict_proba(X)
    assert logits.shape == probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-14)
    assert (model.predict(X) == model.classes_[logits.argmax(axis=1)]).all()


def test_is_the_objective_under_fit(moons):
    """The estimator adds nothing to the numbers of `Objective` and `fit`."""
    X, y = moons
    model = small(
        epochs=4, batch_size=50, weight_decay=0.1, rtol=1e-4, t1=0.5, time="every", activation="softplus"
    ).fit(X, y)
    field = adaptode.MLP((2, 8, 2), activation="softplus", time="every")
    objective = adaptode.Objective(
        field, "binary_cross_entropy", head=adaptode.LinearHead(2, 1), tspan=(0, 0.5), rtol=1e-4
    )
    optimizer = adaptode.Adam(0.1, weight_decay=0.1)
    result = adaptode.fit(objective, X, y, optimizer=optimizer, epochs=4, batch_size=50, rng=0)
    assert (model.params_ == result.params).all() and len(model.history_) == 12
    assert model.n_function_evaluations(X) == objective.solve(result.params, X).nfev > 0


def test_penalties_and_schedules_go_through(moons):
    X, y = moons
    penalties = [JacobianNorm("frobenius", 0.1), LocalError(1.0)]
    model = small(penalties=penalties, epochs=6, learning_rate=Cosine(0.1, 0.0, 6), controller="torchdiffeq").fit(X, y)
    names = [name for name in model.history_.names if name.startswith("parts.")]
    assert len(names) == 3 and (model.history_.column(names[1]) > 0).all()
    assert model.history_.column("learning_rate")[0] == 0.1 > model.history_.column("learning_rate")[-1]
    assert (model.history_.column("nfe_forward") % 6 == 2).any() or (model.history_.column("nfe_forward") > 0).all()
    assert (clone(model).fit(X, y).params_ == model.params_).all()


def test_augmented_dimensions_let_samples_pass_each_other():
    """On a line no flow brings the middle to one side and both ends to the other; with a second dimension it can."""
    X = np.linspace(-1, 1, 60)[:, None]
    y = np.abs(X[:, 0]) < 0.5
    options = {"hidden": (16,), "activation": "softplus", "epochs": 150, "learning_rate": 0.05}
    flat, free = small(**options).fit(X, y), small(**options, augment=1).fit(X, y)
    assert flat.score(X, y) < 0.8 and free.score(X, y) > 0.95
    assert free.n_features_in_ == 1 and free.objective_.field.sizes == (2, 16, 2)
    padded = np.hstack([X, np.zeros_like(X)])
    np.testing.assert_array_equal(free.decision_function(X), free.objective_.predict(free.params_, padded)[:, 0])
    score = free.score(X, y)
    assert free.set_params(augment=3).score(X, y) == score  # until it is fitted again
    for bad in (-1, 1.5, None, "2"):
        with pytest.raises(InputError, match="dimensions to augment by"):
            small(augment=bad).fit(X, y)


def test_float32(moons):
    X, y = moons
    model = small(dtype="float32").fit(X, y)
    assert model.params_.dtype == model.decision_function(X).dtype == np.float32
    assert model.score(X, y) > 0.85
    with pytest.raises(InputError, match="range of float32"):
        small(dtype="float32").fit(X * 1e39, y)


def test_random_state(moons):
    X, y = moons
    params = [small(epochs=1, random_state=seed).fit(X, y).params_ for seed in (0, 0, 1, None, None)]
    assert (params[0] == params[1]).all()
    assert all((a != b).any() for a, b in [(params[1], params[2]), (params[3], params[4])])
    states = [np.random.RandomState(5) for _ in range(2)]
    one, other = (small(epochs=1, random_state=state).fit(X, y).params_ for state in states)
    assert (one == other).all()


def test_scikit_learn_can_drive_it(moons):
    X, y = moons
    scores = cross_val_score(small(), X, y, cv=3)
    assert scores.mean() > 0.8


def test_pickle(moons):
    X, y = moons
    model = small(epochs=2).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.decision_function(X) == model.decision_function(X)).all()


def test_fitted_models_do_not_change_with_their_settings(moons):
    X, y = moons
    model = small(epochs=2).fit(X, y)
    before = model.decision_function(X)
    model.set_params(hidden=(3,), t1=2.0, dtype="float32")
    assert (model.decision_function(X) == before).all()


@pytest.mark.parametrize("seed", [0, None])
def test_resume(moons, tmp_path, seed):
    X, y = moons
    first = small(epochs=3, batch_size=50, checkpoint=tmp_path, random_state=seed).fit(X, y)
    resumed = small(epochs=6, batch_size=50, checkpoint=tmp_path, random_state=seed, resume=True).fit(X, y)
    assert resumed.n_iter_ == 6 and len(resumed.history_) == 18
    assert (resumed.history_.column("loss")[:9] == first.history_.column("loss")).all()
    if seed is not None:
        assert (resumed.params_ == small(epochs=6, batch_size=50).fit(X, y).params_).all()
    with pytest.raises(CheckpointError, match="hidden|sizes"):
        small(hidden=(9,), batch_size=50, checkpoint=tmp_path, random_state=seed, resume=True).fit(X, y)


RUN = """
from sklearn.datasets import make_moons
from adaptode.models import NeuralODEClassifier
from adaptode.regularize import LocalError

def train(folder, resume):
    model = NeuralODEClassifier(
        hidden=(8,), epochs=300, batch_size=50, penalties=[LocalError(1.0)],
        random_state=0, checkpoint=folder, resume=resume,
    )
    return model.fit(*make_moons(120, noise=0.1, random_state=0))
"""


@pytest.mark.whole
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_and_resume_in_another_process(tmp_path):
    """A regularized neural ODE, killed somewhere in its 900 steps, ends in the bits of the uninterrupted one."""
    folder = tmp_path / "killed"
    root = str(Path(__file__).resolve().parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", f"{RUN}\ntrain({str(folder)!r}, False)"], env={**os.environ, "PYTHONPATH": root}
    ) as child:
        while child.poll() is None and not (folder / "checkpoint-000000200.npz").exists():
            time.sleep(0.001)
        child.kill()
    assert 200 <= load_run(folder).result.step < 900
    scope = {}
    exec(RUN, scope)
    resumed, whole = scope["train"](folder, True), scope["train"](None, False)
    assert resumed.params_.tobytes() == whole.params_.tobytes()
    for name in set(whole.history_.names) - {"seconds"}:
        assert resumed.history_.column(name).tobytes() == whole.history_.column(name).tobytes()


def test_ctrl_c_keeps_the_model(moons, monkeypatch):
    X, y = moons
    original = adaptode.Objective.value_and_grad

    def value_and_grad(self, *arguments, step, **options):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, *arguments, step=step, **options)

    model = small()
    monkeypatch.setattr(adaptode.Objective, "value_and_grad", value_and_grad)
    with pytest.warns(RuntimeWarning, match="interrupted after 2 steps"):
        assert model.fit(X, y) is model
    assert model.n_iter_ == 2 and model.predict(X).shape == (120,)
    assert (model.params_ == small(epochs=2).fit(X, y).params_).all()


def test_a_failing_training_brings_its_result(moons, monkeypatch):
    X, y = moons
    original = adaptode.Objective.value_and_grad

    def value_and_grad(self, *arguments, step, **options):
        good = original(self, *arguments, step=step, **options)
        return good._replace(loss=np.nan) if step == 3 else good

    monkeypatch.setattr(adaptode.Objective, "value_and_grad", value_and_grad)
    with pytest.raises(NonFiniteLossError, match="training step 3") as caught:
        small().fit(X, y)
    assert caught.value.result.step == 3


@pytest.fixture
def no_work(monkeypatch):
    def never(*_, **__):
        pytest.fail("work was done before the arguments were checked")

    monkeypatch.setattr(adaptode.Objective, "solve", never)


def spoiled(array, value):
    array = array.astype(float)
    array.flat[3] = value
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda X, y: (spoiled(X, np.nan), y), "NaN"),
        (lambda X, y: (spoiled(X, np.inf), y), "infinity"),
        (lambda X, y: (X, spoiled(y, np.nan)), "NaN"),
        (lambda X, y: (X, spoiled(y, np.inf)), "infinity"),
        (lambda X, y: (X[:-1], y), "inconsistent numbers of samples"),
        (lambda X, y: (X, np.zeros(len(y))), "one class only, 0.0; a"),
        (lambda X, y: (X, np.full(len(y), "only")), "one class only, 'only'; a"),
        (lambda X, y: (X, y + 0.5 * X[:, 0]), "Unknown label type"),
        (lambda X, y: (X[:, 0], y), "Expected 2D array"),
        (lambda X, y: (X[:0], y[:0]), "0 sample"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_bad_data(moons, change, match):
    with pytest.raises(InputError, match=match):
        small().fit(*change(*moons))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": 8}, r"for a single layer write hidden=\(8,\)"),
        ({"hidden": "16"}, "hidden must be a sequence of positive whole numbers.*got '16'"),
        ({"hidden": None}, "hidden must be a sequence.*got None"),
        ({"hidden": (8, 0)}, "hidden must"),
        ({"hidden": (2.5,)}, "hidden must"),
        ({"penalties": LocalError(1.0)}, r"penalties=\[LocalError"),
        ({"penalties": 3}, r"penalties must be a list.*got 3"),
        ({"adjoint": "magic"}, "unknown adjoint 'magic'; known: discrete"),
        ({"penalties": ["local"]}, "penalties must be made like"),
        ({"activation": "step"}, "step"),
        ({"time": "always"}, "time"),
        ({"method": "Verlet"}, "Verlet"),
        ({"method": "Euler"}, "Euler has no error estimate.*adaptive method: Tsit5, Dopri5"),
        ({"controller": "guess"}, "guess"),
        ({"rtol": -1e-3}, "rtol"),
        ({"rtol": 0.0, "atol": 0.0}, "rtol"),
        ({"atol": np.nan}, "atol"),
        ({"t1": 0.0}, "t1"),
        ({"t1": np.inf}, "t1"),
        ({"t1": "late"}, "t1"),
        ({"learning_rate": -0.1}, "at least 0"),
        ({"learning_rate": np.nan}, "at least 0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "single precision"}, "dtype"),
        ({"random_state": -1}, "rng"),
        ({"random_state": "x"}, "seed"),
        ({"resume": True}, "resume"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_bad_settings(moons, options, match):
    model = small(**options)  # stores, and says nothing
    with pytest.raises(InputError, match=match):
        model.fit(*moons)


def test_a_penalty_that_the_field_cannot_serve(moons):
    with pytest.raises(MissingDerivativeError):
        small(activation="relu", penalties=[JacobianNorm("frobenius", 0.1)]).fit(*moons)


def test_unknown_settings():
    with pytest.raises(TypeError, match="width"):
        NeuralODEClassifier(width=3)


def test_before_fit(moons):
    for method in ("predict", "predict_proba", "decision_function", "n_function_evaluations"):
        with pytest.raises(NotFittedError):
            getattr(NeuralODEClassifier(), method)(moons[0])


def test_bad_data_after_fit(moons):
    X, y = moons
    model = small(epochs=1).fit(X, y)
    for bad, match in ((X[:, :1], "features"), (spoiled(X, np.nan), "NaN"), (X[0], "2D")):
        with pytest.raises(InputError, match=match):
            model.predict(bad)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for module in (base, classifier):
        monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ModuleNotFoundError, match=r"needs scikit-learn .*adaptode\[ml\]"):
        __import__(classifier.__name__)
