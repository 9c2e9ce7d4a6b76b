"""What the commands of the bench have in common: records, the command line; and the short ones, `cold` and `detest`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from adaptode.errors import InputError
from bench import __main__ as command_line
from bench import cold, detest, record

# --- records ----------------------------------------------------------------------------------------------------------


def test_records_come_back(tmp_path):
    head = record.header("python -m bench nothing", {"sizes": (1, 2)}, ("numpy", "no-such-package"), {"gone": "not installed"})
    rows = [{"kind": "a", "seconds": np.float64(0.5), "count": np.int64(3)}, {"kind": "b", "values": np.arange(2), "worst": np.nan, "all": [np.inf, 1.0]}]
    record.write(tmp_path, head, rows)
    lines = (tmp_path / "result.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line, parse_constant=pytest.fail)) for line in lines[1:]] == [set(row) for row in rows]
    found, back = record.read(tmp_path)
    assert back == [{"kind": "a", "seconds": 0.5, "count": 3}, {"kind": "b", "values": [0, 1], "worst": None, "all": [None, 1.0]}]
    assert list(found) == ["command", "machine", "versions", "config", "absent"]
    assert found["config"] == {"sizes": [1, 2]} and found["absent"] == {"gone": "not installed"} and "load_after" in found["machine"]
    assert found["versions"]["numpy"] == np.__version__ and "no-such-package" not in found["versions"]


def test_the_setting_of_a_report():
    head = record.header("python -m bench nothing", {})
    head["machine"] |= {"load": 0.2, "load_after": 0.3, "environment": {"OMP_NUM_THREADS": "1"}}
    text = record.setting(head)
    assert "`python -m bench nothing`" in text and "`OMP_NUM_THREADS=1`" in text and "adaptode" in text and "busy" not in text
    head["machine"] |= {"load_after": 1.8, "environment": {}}
    assert "the machine was busy" in record.setting(head) and "nothing that tells" in record.setting(head)


def test_parts_of_a_report():
    assert record.targets([("fast", True, "3×"), ("small", False, "9")]) == "- yes: fast. Worst: 3×.\n- **no**: small. Worst: 9."
    assert record.left_out({}) == "" and record.left_out({"x": "gone"}, ["y: failed"]) == "## Left out\n\n- x: gone\n- y: failed"
    assert record.markdown(["a", "", "b"]) == "a\n\nb\n"
    assert record.chosen(None, ["a", "b"], "thing") == ["a", "b"] and record.chosen(["b"], ["a", "b"], "thing") == ["b"]
    with pytest.raises(InputError, match="no thing is called 'c'; there are a, b"):
        record.chosen(["c"], ["a", "b"], "thing")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["solve", "train", "penalties", "cold", "detest"])
def test_every_option_of_a_command_is_an_argument_of_its_run(name, monkeypatch, capsys):
    options = vars(command_line.parser().parse_args([name, "--out", "somewhere"]))
    module, seen = import_module(f"bench.{name}"), {}
    taken = set(inspect.signature(module.run).parameters)
    assert taken == set(options) - {"what", "worker"} | {"command"}.union({"tolerances", "local"} & taken)
    monkeypatch.setattr(module, "run", lambda **given: seen.update(given) or "the report")
    monkeypatch.setattr(sys, "argv", ["bench", name, "--out", "somewhere"])
    assert command_line.main() == 0
    assert seen["out"] == "somewhere" and seen["command"] == f"python -m bench {name} --out somewhere"
    assert capsys.readouterr().out == "the report\nsomewhere/report.md\n"


def test_a_wrong_name_ends_with_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench", "train", "--only", "moon", "--out", str(tmp_path)])
    assert command_line.main() == 2
    assert capsys.readouterr().err == "python -m bench: no group of workloads is called 'moon'; there are moons, mnist, spiral, small, reg\n"


# --- cold and detest --------------------------------------------------------------------------------------------------


def test_cold_starts_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(cold, "SCRIPTS", {key: cold.SCRIPTS[key] for key in ("adaptode", "adaptode-solve_ivp")} | {"odd": (cold.MOONS, "sys", "1 / 0\n")})
    text = cold.run(str(tmp_path), processes=1, command="python -m bench cold")
    _, rows = record.read(tmp_path)
    ours, equation, odd = rows
    assert list(ours["steps"]) == ["import", "first solve", "gradient"] and ours["total"] == pytest.approx(sum(ours["steps"].values()))
    assert equation["total"] == pytest.approx(equation["steps"]["import"] + equation["steps"]["first solve"])
    assert odd["failed"] == "ZeroDivisionError: division by zero" and "- odd: failed, ZeroDivisionError" in text
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text and "take 1 s at most" in text and (tmp_path / "cold.png").exists()


@pytest.mark.parametrize("total, holds", [(0.99, True), (1.01, False)])
def test_the_target_of_a_cold_start(total, holds):
    rows = [{"kind": "cold", "contender": "adaptode-solve_ivp", "total": 5.0}, {"kind": "cold", "contender": "adaptode", "total": total}]
    ((_, found, figure),) = cold.target(rows)
    assert found == holds and figure == f"{total:.2f} s"
    assert cold.target(rows[:1]) == []


@pytest.mark.parametrize("library", ["diffrax", "torchdiffeq", "torchode"])
def test_a_peers_cold_start(library):
    pytest.importorskip(library)
    (row,) = cold.measure([library], 1)
    assert list(row["steps"]) == ["import", "gradient"] and row["total"] > 0.0


def test_detest_leaves_a_report(tmp_path):
    text = detest.run(str(tmp_path), methods=["Tsit5"], tolerances=(1e-3, 1e-5), local=False, command="python -m bench detest")
    _, rows = record.read(tmp_path)
    assert [(row["tolerance"], row["class"]) for row in rows] == [(tol, kind) for tol in (1e-3, 1e-5) for kind in ("A", "B", "C", "D", "E", "all")]
    assert all(row["nfev"] == sum(other["nfev"] for other in rows[i - 5 : i]) for i, row in enumerate(rows) if row["class"] == "all")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text and "| Tsit5" in text and (tmp_path / "detest.png").stat().st_size > 5_000


def test_help_costs_no_library():
    code = "import sys, bench.__main__ as m; sys.argv = ['bench', '--help']\ntry: m.main()\nexcept SystemExit: assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(cold.__file__).parent.parent).returncode == 0
