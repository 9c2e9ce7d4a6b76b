"""The training loop: what it computes, and that nothing loses a training.

Kills, interrupts and resumptions are compared with one uninterrupted run, bit for bit.
"""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logistic import SETTINGS, Logistic, data, train

from adaptode import training as training_package
from adaptode.errors import AdaptodeError, CheckpointError, InputError, NonFiniteLossError, SolveError
from adaptode.progress import Progress
from adaptode.training import SGD, Adam, Evaluation, checkpoint, fit, load_run
from adaptode.training.batches import Batches

STEPS = 40
PACKAGE = str(Path(training_package.__file__).parent)


@pytest.fixture(scope="module")
def path():
    """Parameters before step 0, 1, … of the uninterrupted run."""
    start = Logistic().init(np.random.default_rng((3, 0, 0)))
    later = []
    train(callback=lambda info: later.append(info.params.copy()) and None)
    return [start, *later]


def same_bits(one, other):
    """Parameters, optimizer state and history, but for the seconds."""
    pairs = [(one.params, other.params)]
    pairs += [(one.optimizer_state[name], array) for name, array in other.optimizer_state.items()]
    pairs += [
        (one.history.column(name), other.history.column(name)) for name in other.history.names if name != "seconds"
    ]
    return one.step == other.step and all(a.tobytes() == b.tobytes() for a, b in pairs)


# What it computes


def test_is_the_plain_loop(path):
    """The same numbers as a loop written out: batches from the epoch's order, one update each."""
    X, y = data()
    objective, optimizer = Logistic(), SETTINGS["optimizer"]
    params = path[0].copy()
    state = optimizer.init(params)
    step, losses = 0, []
    while step < STEPS:
        order = np.random.default_rng((3, 1, step // 4)).permutation(50)
        for first in range(0, 50, 16):
            rows = order[first : first + 16]
            rng = np.random.default_rng((3, 2, step))
            evaluation = objective.value_and_grad(params, X[rows], y[rows], rng=rng, step=step)
            optimizer.update(params, evaluation.grad, state, step)
            losses.append(evaluation.loss)
            step += 1
    result = train()
    assert (result.params == params).all()
    assert result.history.column("loss").tolist() == losses
    assert (result.step, result.epoch, result.status) == (STEPS, 10, "finished")
    assert all((result.optimizer_state[name] == state[name]).all() for name in state)


def test_learns():
    X, y = data()
    result = train(steps=400)
    assert ((X @ result.params[:3] + result.params[3] > 0) == y).mean() > 0.9
    loss = result.history.column("loss")
    assert loss[-20:].mean() < 0.6 * loss[:20].mean()
    np.testing.assert_allclose(result.history.column("parts.task") + result.history.column("parts.decay"), loss)
    assert result.history.column("step").tolist() == list(range(400))
    assert result.history.column("epoch").tolist() == [step // 4 for step in range(400)]
    assert result.history.column("nfe_forward").tolist() == [7 + step % 3 for step in range(400)]
    assert 0 < result.history.column("seconds").sum() <= result.seconds


@given(
    n=st.integers(1, 30),
    size=st.integers(1, 35),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_epoch_sees_each_sample_once(n, size, shuffle, drop_last, seed):
    X = np.arange(n)
    batches = Batches(X, 10 * X, size, shuffle, drop_last)
    orders = []
    for epoch in range(3):
        seen = [batches.at(epoch * batches.per_epoch + i, seed) for i in range(batches.per_epoch)]
        assert all(where == epoch and (yb == 10 * xb).all() for where, xb, yb in seen)
        assert all(len(xb) == min(size, n) for _, xb, _ in seen[: None if drop_last else -1])
        order = np.concatenate([xb for _, xb, _ in seen]).tolist()
        assert len(set(order)) == len(order) == (n - n % min(size, n) if drop_last else n)
        orders.append(order)
    if not shuffle:
        assert orders[0] == orders[1] == list(range(len(orders[0])))
    elif size < n and n > 12:
        assert orders[0] != orders[1]


def test_epochs_count_batches():
    assert train(steps=None, epochs=3).step == 12
    assert train(steps=None, epochs=3, drop_last=True).step == 9
    assert train(steps=None, epochs=3, batch_size=None).step == 3
    assert train(steps=None, epochs=3, batch_size=10**9).step == 3


def test_seeds():
    assert same_bits(train(), train())
    assert same_bits(train(rng=np.random.default_rng(5)), train(rng=np.random.default_rng(5)))
    assert not same_bits(train(rng=4), train())
    assert not same_bits(train(rng=None), train(rng=None))


def test_start_is_copied_and_data_untouched():
    X, y = data()
    start, X0, y0 = np.ones(4), X.copy(), y.copy()
    result = fit(Logistic(), X, y, params=start, epochs=3, rng=0)
    assert (start == 1).all() and (X == X0).all() and (y == y0).all() and (result.params != 1).any()
    assert train(steps=1, params=np.ones(4, int)).params.dtype == np.float64
    assert train(steps=1, params=np.ones(4, np.float32)).params.dtype == np.float32


def test_callback_sees_every_step_and_may_stop():
    seen = []

    def callback(info):
        with pytest.raises(ValueError, match="read-only"):
            info.params[0] = 0
        seen.append(
            (info.step, info.epoch, len(info.history), info.learning_rate, info.evaluation.loss, info.grad_norm)
        )
        return info.step == 6

    result = train(callback=callback)
    assert (result.status, result.step) == ("stopped", 7)
    assert [row[0] for row in seen] == list(range(7)) and [row[2] for row in seen] == list(range(1, 8))
    assert [row[4] for row in seen] == result.history.column("loss").tolist()
    assert [row[5] for row in seen] == result.history.column("grad_norm").tolist()
    assert "stopped after 7 steps (1 epochs and 3 batches)" in result.message


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5))
def test_gradient_norm(values):
    scale = max(map(abs, values)) or 1.0
    expected = scale * np.sqrt(sum((v / scale) ** 2 for v in values))

    class Given(Logistic):
        def value_and_grad(self, params, X, y, *, rng, step):
            return Evaluation(1.0, np.array(values), {})

    objective = Given()
    objective.n_params = len(values)
    result = train(steps=1, objective=objective, optimizer=SGD(1e-300), params=np.zeros(len(values)))
    assert result.history.column("grad_norm")[0] == pytest.approx(expected, rel=1e-10, abs=1e-150)


def test_overhead_is_small():
    """Few Python calls a step beside the objective; a fixed evaluation, so that all of them are the loop's."""

    class Free(Logistic):
        evaluation = Evaluation(1.0, np.ones(4), {"task": 1.0})

        def value_and_grad(self, params, X, y, *, rng, step):
            return self.evaluation

    def calls(steps):
        count = 0

        def note(frame, event, argument):
            nonlocal count
            count += event == "call"

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            train(steps=steps, objective=Free())
        finally:
            sys.setprofile(before)
        return count

    assert (calls(300) - calls(100)) / 200 < 40


# Checkpoints and resuming


def test_checkpoints_are_written_when_due(tmp_path, monkeypatch):
    steps = []
    original = checkpoint.save_run

    def counted(folder, result, **options):
        steps.append(result.step)
        return original(folder, result, **options)

    monkeypatch.setattr(sys.modules["adaptode.training.fit"], "save_run", counted)
    result = train(tmp_path, checkpoint_every=15)
    assert steps == [0, 15, 30, 40]
    saved = load_run(tmp_path)
    assert same_bits(saved.result, result) and saved.result.status == "finished" and saved.seed == 3
    assert saved.config["objective"] == Logistic().config() and saved.config["optimizer"]["weight_decay"] == 0.01


@given(stops=st.lists(st.integers(1, STEPS), max_size=3).map(sorted), every=st.integers(1, 50))
@settings(max_examples=20)
def test_resuming_changes_nothing(tmp_path_factory, path, stops, every):
    folder = tmp_path_factory.mktemp("run")
    for steps in [*stops, STEPS]:
        result = train(folder, steps=steps, checkpoint_every=every, resume=True)
        assert result.step == max(steps, 0)
        assert (result.params == path[steps]).all()
    assert same_bits(result, train())
    assert train(folder, steps=5, resume=True).step == STEPS  # nothing left to do, nothing undone


def test_resume_keeps_an_unknown_seed(tmp_path):
    whole = train(tmp_path / "whole", rng=np.random.default_rng(77))
    train(tmp_path / "parts", rng=np.random.default_rng(77), steps=9)
    for rng in (None, np.random.default_rng(1)):
        resumed = train(tmp_path / "parts", rng=rng, resume=True)
    assert same_bits(resumed, whole)


def test_seconds_add_up(tmp_path):
    first = train(tmp_path, steps=20)
    second = train(tmp_path, resume=True)
    assert second.seconds > first.seconds > 0


def test_a_run_is_not_overwritten(tmp_path):
    first = train(tmp_path, steps=9)
    with pytest.raises(CheckpointError, match="already holds a training"):
        train(tmp_path)
    assert same_bits(load_run(tmp_path).result, first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objective": Logistic(jitter=0.2)}, "objective.jitter was 0.1, now 0.2"),
        ({"optimizer": Adam(0.05)}, "optimizer.weight_decay was 0.01, now 0.0"),
        ({"optimizer": SGD(0.05)}, "optimizer.kind was 'Adam', now 'SGD'"),
        ({"batch_size": 8}, "batches.size was 16, now 8"),
        ({"shuffle": False}, "batches.shuffle"),
        ({"drop_last": True}, "batches.drop_last"),
        ({"rng": 4}, "seed was 3, now 4"),
    ],
)
def test_another_training_is_refused(tmp_path, change, named):
    train(tmp_path, steps=9)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="belongs to another training") as caught:
        train(tmp_path, resume=True, **change)
    assert named in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_other_data_are_refused(tmp_path):
    X, y = data()
    settings_ = {**SETTINGS, "steps": 9, "checkpoint": tmp_path, "resume": True}
    fit(Logistic(), X, y, **settings_)
    for X2, y2 in ((X + 1e-12, y), (X, 1 - y), (X[:-1], y[:-1]), (X.astype(np.float32), y)):
        with pytest.raises(CheckpointError, match="batches"):
            fit(Logistic(), X2, y2, **settings_)
    assert fit(Logistic(), X.tolist(), y.tolist(), **settings_).step == 9


def test_other_versions_are_told(tmp_path, monkeypatch, path):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "versions", lambda: {"python": "3.11", "adaptode": "0", "numpy": "1.0", "numba": "0"})
        train(tmp_path, steps=9)
    with pytest.warns(RuntimeWarning, match="numpy 1.0 ->"):
        result = train(tmp_path, resume=True)
    assert (result.params == path[-1]).all()


def test_a_damaged_checkpoint_costs_only_time(tmp_path, path):
    train(tmp_path, steps=20, checkpoint_every=15)
    newest = tmp_path / "checkpoint-000000020.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match="000020.npz .* 000000015|000020.npz .*checkpoint-000000015.npz is used"):
        result = train(tmp_path, checkpoint_every=15, resume=True)
    assert (result.params == path[-1]).all()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_is_a_warning(tmp_path, monkeypatch, path):
    train(tmp_path, steps=9)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(RuntimeWarning, match="No space left") as caught:
            result = train(tmp_path, checkpoint_every=10, resume=True)
    assert len(caught) == 4  # after 10, 20, 30 and 40 steps
    assert (result.params == path[-1]).all() and result.status == "finished"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert (train(tmp_path, resume=True).params == path[-1]).all()


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path):
    class Never(Logistic):
        def value_and_grad(self, *_, **__):
            pytest.fail("a step was made")

    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*: Not a directory\. Give another folder$"):
        train(tmp_path / "file" / "run", objective=Never())


def test_a_start_that_cannot_be_solved_is_not_blamed_on_the_learning_rate():
    class Stiff(Logistic):
        def value_and_grad(self, *_, **__):
            raise SolveError("max_steps = 5", run="the run")

    with pytest.raises(SolveError, match=r"training step 0: .*parameters it started from.* says: max_steps = 5(\n|$)") as caught:
        train(objective=Stiff())
    assert "learning rate" not in str(caught.value) and caught.value.run == "the run"


def kill_and_resume(folder, rng, tries):
    """Kill the training process at a random instant, `tries` times; returns the steps reached in its checkpoints."""
    script = Path(__file__).parent / "logistic.py"
    root = Path(__file__).resolve().parent.parent
    reached = []
    for _ in range(tries):
        child = subprocess.Popen(
            [sys.executable, str(script), str(folder), "600"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
        )
        with child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.25))
            child.kill()
        assert child.returncode in (-signal.SIGKILL, 0)
        reached.append(load_run(folder).result.step if checkpoint.list_checkpoints(folder) else 0)
    return reached


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("instants", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_at_random_instants(tmp_path, instants):
    """Every killed training, resumed, ends in the bits of the uninterrupted one."""
    rng = random.Random(instants)
    whole = train(steps=600)
    killed = inside = 0
    while killed < instants:
        folder = tmp_path / str(killed)
        reached = kill_and_resume(folder, rng, tries=min(2, instants - killed))
        killed += len(reached)
        inside += sum(0 < step < 600 for step in reached)
        assert reached == sorted(reached)
        assert same_bits(train(folder, steps=600, resume=True), whole)
        assert not list(folder.glob(".*"))
    assert inside >= instants // 4, "too few kills fell into the training: widen the span of instants"


# Errors


class Bad(Logistic):
    """Goes wrong at step 17."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def value_and_grad(self, params, X, y, *, rng, step):
        good = super().value_and_grad(params, X, y, rng=rng, step=step)
        return self.how(good) if step == 17 else good


def bad_gradient(value):
    def change(good):
        good.grad[2] = value
        return good

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_a_number_stops(tmp_path, path, value, where):
    how = (
        bad_gradient(value)
        if where == "gradient"
        else lambda good: good._replace(loss=value, parts={"task": value, "decay": 1})
    )
    with pytest.raises(
        NonFiniteLossError, match=r"training step 17: the loss or its gradient is .*loss .*\(task .*gradient norm .*Try"
    ) as caught:
        train(tmp_path, objective=Bad(how), checkpoint_every=10)
    assert caught.value.step == 17
    result = caught.value.result
    assert (result.step, result.status, len(result.history)) == (17, "failed", 17)
    assert (result.params == path[17]).all()
    assert same_bits(load_run(tmp_path).result, result)
    assert (train(tmp_path, resume=True).params == path[-1]).all()  # the fault is gone: as if it had never been


def test_an_update_that_overflows_stops():
    with pytest.raises(NonFiniteLossError, match="training step 0: the updated parameters") as caught:
        train(optimizer=SGD(1e308), objective=Steep())
    assert np.isfinite(caught.value.result.params).all() and caught.value.result.step == 0


class Steep(Logistic):
    def value_and_grad(self, params, X, y, *, rng, step):
        return Evaluation(1.0, np.full(4, 1e200), {})


@pytest.mark.parametrize("error", [SolveError("step size underflow"), ZeroDivisionError(), MemoryError()])
@pytest.mark.parametrize("where", ["objective", "callback"])
def test_any_error_leaves_with_the_model_so_far(tmp_path, path, error, where):
    def fail(good):
        raise error

    def callback(info):
        if where == "callback" and info.step == 16:
            raise error

    with pytest.raises(type(error)) as caught:
        train(tmp_path, objective=Bad(fail if where == "objective" else lambda good: good), callback=callback)
    result = caught.value.result
    assert caught.value is error and result.step == 17 and (result.params == path[17]).all()
    assert any("stopped at step 17" in note for note in error.__notes__)
    if where == "objective" and isinstance(error, SolveError):  # with advice for a training
        assert re.fullmatch(r"training step 17: .*Lower the learning rate \(0.05 in the step before\).* says: step size underflow", str(error))
    assert same_bits(load_run(tmp_path).result, result)


def test_a_gradient_of_another_shape_is_named():
    with pytest.raises(InputError, match=r"gradient must be \(4,\), not \(3,\)"):
        train(objective=Bad(lambda good: good._replace(grad=good.grad[:3])))


# Interrupts


@pytest.mark.parametrize("where", ["objective", "callback"])
@given(step=st.integers(0, STEPS - 1))
@settings(max_examples=15)
def test_ctrl_c_returns_the_model_so_far(tmp_path_factory, path, where, step):
    class Interrupted(Logistic):
        def value_and_grad(self, *arguments, step, **options):
            if where == "objective" and step == at:
                raise KeyboardInterrupt
            return super().value_and_grad(*arguments, step=step, **options)

    def callback(info):
        if where == "callback" and info.step == at:
            raise KeyboardInterrupt

    at, folder = step, tmp_path_factory.mktemp("run")
    result = train(folder, objective=Interrupted(), callback=callback)
    complete = at if where == "objective" else at + 1
    assert (result.status, result.step, len(result.history)) == ("interrupted", complete, complete)
    assert (result.params == path[complete]).all()
    assert same_bits(load_run(folder).result, result)
    assert (train(folder, resume=True).params == path[-1]).all()


def test_ctrl_c_under_a_failing_clean_up(path):
    def fail(good):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("open handle")

    result = train(objective=Bad(fail))
    assert result.status == "interrupted" and (result.params == path[17]).all()


def interrupted_at_line(number, function):
    """Run function, with a KeyboardInterrupt just before the `number`-th line that the loop runs; counts the lines."""
    count = 0
    inside = False

    def trace(frame, event, _):
        nonlocal count, inside
        inside = inside or (frame.f_code.co_name == "run" and frame.f_code.co_filename.startswith(PACKAGE))
        if not inside or not frame.f_code.co_filename.startswith(PACKAGE):
            return trace if not inside else None
        if event == "line":
            count += 1
            if count == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(), count
    finally:
        sys.settrace(before)


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it may also fall between the end of a `with` and its closing
def test_ctrl_c_between_any_two_lines(tmp_path, monkeypatch, path):
    """Not only in the objective: in the update, the commit, the history, the writing of a checkpoint, the end."""

    def run(folder):
        return train(folder, steps=2, checkpoint_every=1)

    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand short runs need not reach the disk
    finished, n_lines = interrupted_at_line(-1, lambda: run(tmp_path / "all"))
    assert finished.status == "finished" and n_lines > 200
    steps = set()
    for number in range(1, n_lines + 1):
        folder = tmp_path / str(number)
        result, _ = interrupted_at_line(number, lambda folder=folder: run(folder))
        assert result.status == "interrupted", number
        assert len(result.history) == result.step
        assert (result.params == path[result.step]).all()
        saved = load_run(folder).result
        assert saved.step == result.step and (saved.params == result.params).all()
        assert result.step == 0 or same_bits(saved, result)  # a history without rows need not know its parts yet
        assert (train(folder, steps=2, checkpoint_every=9, resume=True).params == path[2]).all()
        steps.add(result.step)
    assert steps == {0, 1, 2}


# Progress


def test_plain_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr("adaptode.progress.time.perf_counter", lambda: 0.0)
    progress = Progress(True, 0, 100)
    for i in range(1, 101):
        progress.tick(0.15 * i, i, loss=0.5, nfe=14)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: step 7/100, loss 0.5, nfe 14"
    assert lines[-1] == "training: step 100/100, loss 0.5, nfe 14"
    assert 13 <= len(lines) <= 16


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress_goes_to_stderr_and_changes_nothing(capsys, monkeypatch, path, with_tqdm):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    result = train(progress=True)
    out, err = capsys.readouterr()
    assert (result.params == path[-1]).all()
    assert out == "" and "40/40" in err and "loss" in err
    train()
    assert capsys.readouterr().err == ""


# Bad input


class Untouched(Logistic):
    def init(self, rng):
        pytest.fail("work was done before the arguments were checked")


X0, Y0 = data()


def spoiled(array, value):
    array = array.astype(float)
    array[(5,) + (0,) * (array.ndim - 1)] = value
    return array


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (spoiled(X0, np.nan), Y0, "X has NaN or inf, first in row 5"),
        (spoiled(X0, np.inf), Y0, "X has NaN or inf"),
        (X0, spoiled(Y0, np.nan), "y has NaN or inf"),
        (X0, spoiled(Y0, -np.inf), "y has NaN or inf"),
        (X0, Y0[:-1], "X has 50 samples, y has 49"),
        (X0[:0], Y0[:0], "not empty"),
        (X0, Y0.astype(str), "y must be an array of real numbers"),
        (X0.astype(object), Y0, "X must be an array of real numbers"),
        (X0 + 1j, Y0, "real numbers"),
        ([[1.0], [1.0, 2.0]], [0, 1], "X is not an array"),
        (1.0, Y0, "real numbers"),
        (None, Y0, "real numbers"),
    ],
)
def test_bad_data(X, y, match):
    with pytest.raises(InputError, match=match):
        fit(Untouched(), X, y, epochs=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": None}, "either epochs or steps"),
        ({"epochs": 3}, "either epochs or steps"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 1.5}, "steps must be"),
        ({"steps": None, "epochs": -1}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": -5}, "batch_size must be"),
        ({"batch_size": 2.0}, "batch_size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
        ({"optimizer": "adam"}, "optimizer must be"),
        ({"optimizer": Adam}, "optimizer must be"),
        ({"rng": -1}, "rng must be"),
        ({"rng": 1.5}, "rng must be"),
        ({"rng": "seed"}, "rng must be"),
        ({"rng": True}, "rng must be"),
        ({"callback": 3}, "callback must be"),
        ({"folder": 3}, "checkpoint must be a folder"),
        ({"resume": True}, "resume=True needs"),
        ({"objective": object()}, "has no n_params"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(InputError, match=match):
        train(**{"objective": Untouched(), **options})


@pytest.mark.parametrize(
    "params", [np.zeros(3), np.zeros((4, 1)), [0, 0, 0, np.nan], ["a"] * 4, np.zeros(4, complex), np.full(4, np.inf)]
)
def test_bad_starts(params):
    with pytest.raises(InputError, match=r"params must be \(4,\)"):
        train(params=params, objective=Untouched())


def test_unknown_options_and_negative_rates():
    with pytest.raises(TypeError, match="learning_rate"):
        train(learning_rate=0.1)
    with pytest.raises(AdaptodeError, match="at least 0"):
        train(optimizer=Adam(-0.1))
