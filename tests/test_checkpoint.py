"""Checkpoints: round trip, damage, full disks, other trainings."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptode.errors import CheckpointError
from adaptode.training import Evaluation, FitResult, History, checkpoint, load_run, save_run

CONFIG = {"objective": {"widths": [2, 8, 2], "rtol": 1e-3}, "optimizer": {"kind": "Adam"}}


def result(step=3, dtype="float64"):
    rng = np.random.default_rng(step)
    history = History()
    for i in range(step):
        history.append(i, 0, Evaluation(rng.normal(), None, {"task": 1.0}), 1.0, 0.1, 0.0)
    m, v = rng.normal(size=(2, 5)).astype(dtype)
    return FitResult(rng.normal(size=5).astype(dtype), history, {"m": m, "v": v}, step, 1, "running", "a word", 2.5)


def same(one, other):
    arrays = [{"params": r.params, **r.optimizer_state, **r.history.to_arrays()} for r in (one, other)]
    return arrays[0].keys() == arrays[1].keys() and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(*(x.values() for x in arrays), strict=True)
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of the steps 3 and 6."""
    folder = tmp_path_factory.mktemp("two")
    for step in (3, 6):
        save_run(folder, result(step), seed=7, config=CONFIG)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path, dtype):
    saved = result(4, dtype)
    path = save_run(tmp_path / "new" / "folder", saved, seed=2**62 + 1, config=CONFIG)
    assert path.name == "checkpoint-000000004.npz"
    run = load_run(path.parent)
    assert same(run.result, saved)
    for name in ("step", "epoch", "status", "message", "seconds"):
        assert getattr(run.result, name) == getattr(saved, name)
    assert (run.seed, run.config) == (2**62 + 1, CONFIG)
    assert set(run.versions) == {"python", "adaptode", "numpy", "numba"} and run.versions["numpy"] == np.__version__
    run.result.params[:] = 0  # what was loaded can be trained on


def test_numpy_alone_can_read_it(two):
    """The documented format: an npz with the JSON text inside, no pickles."""
    with np.load(sorted(two.iterdir())[-1], allow_pickle=False) as archive:
        assert set(archive.files) >= {"meta", "params", "optimizer/m", "optimizer/v", "history/loss"}
        assert json.loads(archive["meta"].tobytes())["config"] == CONFIG


def test_same_content_same_bytes(tmp_path):
    paths = [save_run(tmp_path / name, result(), seed=1, config=CONFIG) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_last_two_are_kept_and_leftovers_removed(tmp_path):
    for step in (1, 2, 10, 9999999999):
        (tmp_path / f".checkpoint-{step}.npz.123.tmp").write_bytes(b"half")
        save_run(tmp_path, _at(step), seed=1, config=CONFIG)
    (tmp_path / "notes.txt").write_text("mine")
    save_run(tmp_path, _at(20000000000), seed=1, config=CONFIG)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-20000000000.npz", "checkpoint-9999999999.npz", "notes.txt"]
    assert load_run(tmp_path).result.step == 20000000000


def _at(step):
    one = result(2)
    return FitResult(one.params, one.history, one.optimizer_state, step, 0, "running", "", 0.0)


@settings(max_examples=100)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_seen_and_the_earlier_one_used(two, position, bit, cut):
    newest = two / "checkpoint-000000006.npz"
    content = newest.read_bytes()
    where = int(position * len(content))
    damaged = bytearray(content)
    damaged[where] ^= 1 << bit
    try:
        newest.write_bytes(content[:where] if cut else damaged)
        with pytest.warns(
            RuntimeWarning, match="checkpoint-000000006.npz .*checksum.*checkpoint-000000003.npz is used"
        ):
            run = load_run(two)
    finally:
        newest.write_bytes(content)
    assert same(run.result, result(3))


def test_every_byte_counts(two):
    """No byte of the file, headers and padding included, is outside the checksum."""
    content = (two / "checkpoint-000000006.npz").read_bytes()
    stored = content[-64:]
    assert checkpoint._digest(content) == stored
    for where in range(len(content)):
        damaged = bytearray(content)
        damaged[where] ^= 0x10
        assert checkpoint._digest(bytes(damaged)) != damaged[-64:]


def test_all_damaged(two, tmp_path):
    for path in two.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="every checkpoint .* damaged .*000006.npz, checkpoint-000000003.npz"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_no_checkpoint(tmp_path, name):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_run(tmp_path / name)


def test_unreadable(two, tmp_path):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint-000000009.npz").mkdir()
    with pytest.raises(CheckpointError, match="cannot read"):
        load_run(tmp_path)


class FullDisk:
    """A file that takes ten bytes."""

    def __init__(self, *arguments):
        self.file = open(*arguments)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", [6, 9])  # instead of one that is there, and a new one
@pytest.mark.parametrize("where", ["write", "fsync", "replace", "mkdir"])
def test_a_full_disk_leaves_the_old_ones(two, tmp_path, monkeypatch, where, step):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(checkpoint, "open", FullDisk, raising=False)
        elif where == "mkdir":
            patch.setattr(checkpoint.Path, "mkdir", full)
        else:
            patch.setattr(os, where, full)
        with pytest.raises(CheckpointError, match=rf"{step}\.npz: No space left.*; the earlier checkpoints there are intact\. Free some space"):
            save_run(tmp_path, result(step), seed=8, config=CONFIG)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(load_run(tmp_path).result, result(6))


def test_an_interrupted_write_leaves_the_old_ones(two, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_run(tmp_path, result(9), seed=7, config=CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save_run(tmp_path, result(), seed=1, config=CONFIG)
    with pytest.raises(CheckpointError, match="format 2, this version of adaptode reads format 1"):
        load_run(tmp_path)


def test_pickles_are_never_read_or_written(tmp_path):
    one = result()
    bad = FitResult(np.array([print], dtype=object), one.history, {}, 3, 0, "running", "", 0.0)
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        save_run(tmp_path, bad, seed=1, config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_config_must_be_json(tmp_path):
    with pytest.raises(CheckpointError, match="JSON"):
        save_run(tmp_path, result(), seed=1, config={"field": object()})


def test_check_config_names_the_difference():
    checkpoint.check_config(CONFIG, {**CONFIG, "objective": {"widths": (2, 8, 2), "rtol": 1e-3}}, "here")
    other = {"objective": {"widths": [2, 9, 2], "atol": 1e-3, "rtol": 1e-3}, "optimizer": {"kind": "Adam"}}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_config(CONFIG, other, "here")
    message = str(caught.value)
    assert "objective.widths was [2, 8, 2], now [2, 9, 2]" in message
    assert "objective.atol was None, now 0.001" in message
    assert "optimizer" not in message and "rtol" not in message


def test_check_versions():
    checkpoint.check_versions(checkpoint.versions())
    with pytest.warns(RuntimeWarning, match="numpy 1.0 -> .*bit for bit"):
        checkpoint.check_versions({**checkpoint.versions(), "numpy": "1.0"})
