"""The command line: exit codes, one-line errors, what the commands print."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptode import __version__, cli
from adaptode.errors import DataError
from adaptode.experiments import mnist, moons

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "adaptode", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["reproduce"],
        ["reproduce", "cifar"],
        ["reproduce", "moons", "--seeds", "0"],
        ["reproduce", "moons", "--seeds", "2.5"],
        ["reproduce", "moons", "--first-seed", "-1"],
        ["reproduce", "mnist", "--steps", "-3"],
        ["reproduce", "mnist", "--dtype", "float16"],
        ["info", "--unknown"],
    ],
)
def test_bad_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: adaptode") and "error:" in err and "Traceback" not in err


def test_help_states_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes" in out and all(word in out for word in ("reproduce", "info", "warmup"))


def test_info(monkeypatch, capsys):
    for name in cli.SLOWING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("warning", "compiled")))
    assert lines["adaptode"] == __version__ and lines["cores"] == str(os.cpu_count())
    assert "/somewhere" in out and "warning" not in out
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "warning: OPENBLAS_CORETYPE=Haswell" in out and "Where that was measured" in out and "here it may cost nothing" in out


def test_a_failed_run_is_1_and_one_line(monkeypatch, capsys, tmp_path):
    def fail(*arguments, **options):
        raise DataError("no files\nhere")

    monkeypatch.setattr(mnist, "run", fail)
    assert cli.main(["reproduce", "mnist", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == "adaptode: no files here\n"


def test_interrupt_is_130(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(moons, "run", interrupt)
    assert cli.main(["reproduce", "moons"]) == 130
    assert capsys.readouterr().err == "adaptode: interrupted\n"


TRAINING = """
import sys, time
from adaptode import cli
from adaptode.experiments import moons

def train(task):
    if task.name == sys.argv[2] and task.seed == 0:
        return {"name": task.name, "weight": 0.0, "seed": 0, "nfe": 14, "accuracy": 1.0, "seconds": 0.5}
    time.sleep(100)

def warm_up(dtypes):
    print("started", flush=True)

if __name__ == "__main__":
    moons.train, moons.warm_up = train, warm_up
    sys.exit(cli.main(["reproduce", "moons", "--jobs", "2", "--out", sys.argv[1]]))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends what a terminal sends on Ctrl-C")
@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_in_a_terminal_is_one_line(tmp_path, finished):
    """The terminal sends it to every process of the run, also to workers that are only starting."""
    out = tmp_path / "runs" / "moons"
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(out), "none" if finished else "no row"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a background job ignores
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "started\n"
            time.sleep(0.3)
            while finished and not (out / "partial.json").exists():
                assert process.poll() is None
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            err = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    if not finished:
        assert err == "adaptode: interrupted\n" and list(tmp_path.iterdir()) == []
    else:
        assert err.splitlines()[1:] == [f"1 finished training kept in {out / 'partial.json'}", "adaptode: interrupted"]
        assert json.loads((out / "partial.json").read_text())["trainings"][0]["nfe"] == 14


def test_a_bug_is_not_hidden(monkeypatch):
    def bug(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(moons, "run", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["reproduce", "moons"])


def test_options_reach_the_experiments(monkeypatch, capsys):
    calls = []
    for module in (moons, mnist):
        monkeypatch.setattr(module, "run", lambda out, **options: calls.append((out, options)) or "a table")
    assert cli.main(["reproduce", "moons"]) == 0
    assert cli.main(["reproduce", "moons", "--quick", "--sweep", "--seeds", "3", "--first-seed", "100", "--out", "x", "--jobs", "1"]) == 0
    assert cli.main(["reproduce", "mnist"]) == 0
    more = ["--data", "digits", "--data-dir", "d", "--steps", "7", "--dtype", "float32", "--seeds", "2", "--out", "y"]
    assert cli.main(["reproduce", "mnist", *more, "--weights", "2.5", "1"]) == 0
    assert capsys.readouterr().out == "a table\n" * 4
    assert calls == [
        (Path("runs/moons"), {"quick": False, "seeds": None, "first_seed": 0, "sweep": False, "n_jobs": -1}),
        (Path("x"), {"quick": True, "seeds": 3, "first_seed": 100, "sweep": True, "n_jobs": 1}),
        (Path("runs/mnist"),
         {"data": "mnist", "data_dir": None, "steps": 300, "dtype": "float64", "weights": None, "seeds": 1,
          "n_jobs": -1}),
        (Path("y"),
         {"data": "digits", "data_dir": Path("d"), "steps": 7, "dtype": "float32", "weights": [2.5, 1.0],
          "seeds": 2, "n_jobs": -1}),
    ]  # fmt: skip


@pytest.mark.compiles
def test_warmup_compiles_every_dtype(monkeypatch, capsys):
    assert cli.main(["warmup"]) == 0
    assert capsys.readouterr().out.startswith("compiled, or loaded from ")


def test_as_a_program(tmp_path):
    done = run("info")
    assert done.returncode == 0 and done.stderr == "" and f"adaptode       {__version__}" in done.stdout
    missing = run("reproduce", "mnist", "--data-dir", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    assert missing.returncode == 1 and missing.stdout == ""
    assert missing.stderr.startswith("adaptode: no train-images-idx3-ubyte.gz in") and missing.stderr.count("\n") == 1
    (tmp_path / "file").write_text("")
    blocked = run("reproduce", "moons", "--out", str(tmp_path / "file"))
    assert blocked.returncode == 1 and "cannot write to" in blocked.stderr and blocked.stderr.count("\n") == 1


@pytest.mark.whole
def test_digits_as_a_program(tmp_path):
    done = run("reproduce", "mnist", "--data", "digits", "--steps", "1", "--out", str(tmp_path), "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "local-biased" in done.stdout and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["config"]["data"] == "digits"
