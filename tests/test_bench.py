"""The bench: right-hand sides and references, fair turns, and what the report holds. No test looks at seconds."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from adaptode.errors import InputError  # noqa: E402
from bench import contenders, record, report, solve, timing, units  # noqa: E402
from bench.case import end_of_pair, pointer  # noqa: E402
from bench.problems import PROBLEMS  # noqa: E402

# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))
def test_every_form_of_a_right_hand_side_is_the_same(problem):
    rng = np.random.default_rng(0)
    for _ in range(5):
        y, p, dy = rng.normal(size=len(problem.y0)), rng.uniform(0.1, 2.0, len(problem.p)), np.full(len(problem.y0), np.nan)
        problem.fill(0.3, y, p, dy)
        np.testing.assert_allclose(problem.formula(0.3, y, p), dy, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(problem.python(0.3, y, p), dy, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(problem.stacked(np)(0.3, y, p), dy, rtol=1e-12, atol=1e-12)


# The bounds are rounding times how much the problem magnifies it: 1e4 for Lorenz, 1e6 for the orbit.
@pytest.mark.parametrize("key, bound", [("lorenz-10", 2e-10), ("lotka-volterra", 1e-11), ("arenstorf", 2e-8), ("pleiades", 2e-10), ("van-der-pol", 1e-11)])
def test_references_are_where_dop853_arrives(key, bound):
    problem = PROBLEMS[key]
    found = solve_ivp(problem.python, (0.0, problem.check), problem.y0, method="DOP853", rtol=1e-13, atol=1e-13, args=(np.array(problem.p),))
    assert problem.error(found.y[:, -1]) < bound
    assert problem.error(found.y[:, -1] + 1e-3) > 1e-5  # and the error does see an error


def test_long_lorenz_is_checked_where_it_can_be():
    long, short = PROBLEMS["lorenz-100"], PROBLEMS["lorenz-10"]
    assert (long.t1, long.check, long.reference) == (100.0, 10.0, short.reference) and "0 to 10" in long.note
    assert long.error(np.array(short.reference) * 1.5) == pytest.approx(0.5)


def test_raw_pointers_call_and_count():
    import ctypes

    problem = PROBLEMS["lotka-volterra"]
    y, dy, memory = np.array([1.0, 2.0]), np.empty(2), np.array([0.0, *problem.p])
    as_pointer = ctypes.POINTER(ctypes.c_double)
    y_at, dy_at, p_at = (a.ctypes.data_as(as_pointer) for a in (y, dy, memory[1:]))
    for counting in (False, True):
        dy[:] = np.nan
        pointer(problem.fill, "t y dy p", counting).ctypes(0.0, y_at, dy_at, p_at)
        assert dy.tolist() == problem.formula(0.0, y, problem.p) and memory[0] == counting
    dy[:] = np.nan
    pointer(problem.fill, "dy t y p").ctypes(dy_at, 0.0, y_at, p_at)
    assert dy.tolist() == problem.formula(0.0, y, problem.p) and memory[1:].tolist() == list(problem.p)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_contenders_take_turns_until_their_budget_is_spent(monkeypatch):
    turns = []
    costs = {"fast": 0.25, "slow": 4.0, "middling": 1.5}
    monkeypatch.setattr(timing, "clock", lambda case: case())
    cases = {key: (lambda key=key: (turns.append(key), costs[key])[1]) for key in costs}
    seconds = timing.rounds(cases, budget=3.0, runs=3)
    assert turns == ["fast"] * 4 + ["slow", "middling"] + ["fast"] * 4 + ["middling"] + ["fast"] * 4
    assert {key: len(value) for key, value in seconds.items()} == {"fast": 12, "slow": 1, "middling": 2}
    assert seconds["middling"] == [1.5, 1.5]


def test_an_interrupted_call_is_charged_what_it_had_of_the_cpu(monkeypatch):
    now = {"clock": 0.0, "cpu": 0.0}

    class Time:
        perf_counter, process_time = staticmethod(lambda: now["clock"]), staticmethod(lambda: now["cpu"])

    monkeypatch.setattr(timing, "time", Time)
    assert timing.clock(lambda: now.update(clock=now["clock"] + 4.0, cpu=now["cpu"] + 1.0)) == 1.0
    assert timing.clock(lambda: now.update(clock=now["clock"] + 1.0, cpu=now["cpu"] + 1.5)) == 1.0  # the CPU clock's own cost


def test_every_round_has_a_call_of_each():
    calls = {"a": 0, "b": 0}

    def case(key):
        def call():
            calls[key] += 1

        return call

    seconds = timing.rounds({key: case(key) for key in calls}, budget=0.007)
    assert all(calls[key] == len(seconds[key]) >= 7 and min(seconds[key]) >= 0.0 for key in calls)


# --- a short run ------------------------------------------------------------------------------------------------------


def quick(tmp_path, **options):
    text = solve.run(str(tmp_path), quick=True, only=["lotka-volterra"], ensemble=False, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "result.jsonl", "work-precision.png"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    head, rows = record.read(tmp_path)
    return head, {kind: [row for row in rows if row["kind"] == kind] for kind in ("overhead", "solve", "ensemble")}, text


def test_a_quick_run_of_two_contenders(tmp_path):
    head, stored, text = quick(tmp_path, contenders=["scipy-rk45", "scipy-dop853"])
    problem = PROBLEMS["lotka-volterra"]
    assert [(row["tolerance"], row["contender"]) for row in stored["solve"]] == [(tol, key) for tol in (1e-6, 1e-9) for key in ("scipy-rk45", "scipy-dop853")]
    for row in stored["solve"]:
        options = {"method": row["method"], "rtol": row["tolerance"], "atol": row["tolerance"]}
        found = solve_ivp(problem.python, (0.0, 10.0), problem.y0, args=(problem.p,), **options)
        assert row["work"] == found.nfev and row["error"] == problem.error(found.y[:, -1]) < 1e4 * row["tolerance"]
        assert row["seconds"] >= row["fastest"] > 0.0 and row["runs"] >= 1 and row["first_seconds"] > 0.0
        assert row["times_scipy"] == pytest.approx(stored["solve"][2 * (row["tolerance"] < 1e-7)]["seconds"] / row["seconds"])
        assert str(found.nfev) in text and f"{row['error']:.1e}" in text
    assert [row["contender"] for row in stored["overhead"]] == ["scipy-rk45", "scipy-dop853"]
    assert head["machine"]["cpu"] and head["versions"]["scipy"] and stored["ensemble"] == []
    assert head["config"]["problems"] == ["lotka-volterra"] and head["absent"] == {} and head["command"] == ""
    assert "## Lotka–Volterra" in text and "![work-precision](work-precision.png)" in text and "## Targets" not in text
    assert "None" not in text and "nan" not in text and (tmp_path / "work-precision.png").stat().st_size > 4_000


def test_the_absent_and_the_failing_are_named(tmp_path, monkeypatch):
    scipy = contenders.CONTENDERS["scipy-rk45"]

    def broken(problem, tol):
        raise ValueError("no such luck\nmore")

    def short_of_the_end(problem, tol):
        case = scipy.prepare(problem, tol)
        return case._replace(state=lambda answer: end_of_pair((False, None)))

    more = [
        replace(scipy, key="gone", needs=("no_such_module_at_all",)),
        replace(scipy, key="old", needs=("scipy:no_such_name",)),
        replace(scipy, key="broken", prepare=broken),
        replace(scipy, key="short", prepare=short_of_the_end),
    ]
    monkeypatch.setattr(solve, "CONTENDERS", {c.key: c for c in more})
    monkeypatch.setattr(report, "CONTENDERS", solve.CONTENDERS)
    head, stored, text = quick(tmp_path)
    assert set(head["absent"]) == {"gone", "old"} and "no_such_module_at_all does not import" in text and "scipy has no no_such_name" in text
    assert all("seconds" not in row for row in stored["solve"]) and "failed, ValueError: no such luck\n" in text
    assert "failed, SolveFailed: the solver reports no success" in text


def test_the_slow_are_left_out_of_a_quick_run(monkeypatch):
    monkeypatch.setattr(timing, "clock", lambda case: (case(), 0.2)[1])
    scipy = [contenders.CONTENDERS["scipy-dop853"]]
    rows = solve.measure(PROBLEMS["lotka-volterra"], scipy, solve.QUICK)
    assert [row.get("skipped") for row in rows] == [None, "about 0.8 s a solve"]  # 0.2 s · 1000^(1/5)
    rows = solve.measure(PROBLEMS["lotka-volterra"], scipy, replace(solve.QUICK, patient=True))
    assert [row["seconds"] for row in rows] == [0.2, 0.2] and [row["runs"] for row in rows] == [1, 1]
    rows = solve.measure(PROBLEMS["lotka-volterra"], [contenders.CONTENDERS["scipy-rk45"]], solve.QUICK)
    assert [row["times_scipy"] for row in rows] == [1.0, 1.0]  # what the others are measured by is always there


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no problem is called 'lorentz'; there are lorenz-10"):
        solve.run(str(tmp_path), only=["lorentz"])
    with pytest.raises(InputError, match="no contender is called 'scipi'"):
        solve.run(str(tmp_path), contenders=["scipi"])


# --- the report -------------------------------------------------------------------------------------------------------


def made_up(cyrk, rhs, specialize, lean, python=1e-3, scipy=1e-2, call=1e-5):
    """A result as if measured, all of one method."""
    rows = []
    for problem in ("lorenz-10", "van-der-pol"):
        times = {
            "scipy-rk45": scipy, "adaptode-rk45-python": python, "cyrk-rk45": cyrk, "adaptode-rk45": rhs,
            "adaptode-rk45-specialize": specialize, "adaptode-rk45-lean": lean,
        }  # fmt: skip
        for key, seconds in times.items():
            row = solve._row(PROBLEMS[problem], contenders.CONTENDERS[key], 1e-6)
            rows.append(row | {"kind": "solve", "seconds": seconds, "error": 1e-5, "work": 10, "work_unit": "", "times_scipy": scipy / seconds})
    return rows + [row | {"kind": "overhead", "seconds": call} for row in rows if row["contender"] == "adaptode-rk45"]


def test_targets_say_no_when_the_numbers_do():
    good = {"cyrk": 3e-5, "rhs": 2.9e-5, "specialize": 1.9e-5, "lean": 2.9e-5}
    assert [holds for _, holds, _ in report.targets(made_up(**good), [1e-6])] == [True] * 6
    spoiled = [{"scipy": 4e-3}, {"rhs": 3.1e-5}, {"lean": 3.1e-5}, {"specialize": 2.1e-5}, {"python": 6e-3}, {"call": 2.1e-5}]
    for i, change in enumerate(spoiled):
        found = [holds for _, holds, _ in report.targets(made_up(**good | change), [1e-6])]
        assert not found[i] and sum(found) >= 5 - (i == 0), change
    alone = [row | {"times_scipy": None} for row in made_up(**good) if row["library"] != "SciPy"]
    assert [holds for _, holds, _ in report.targets(alone, [1e-6])] == [True] * 4  # without SciPy there is nothing to say of two of them
    ratios = report.against_cyrk(report.of_kind(made_up(**good), "solve"))
    assert {(r["form"], round(r["ratio"], 2)) for r in ratios} == {("@rhs", 1.03), ("specialize", 1.58), ("jit_solver", 1.03)}


@pytest.mark.parametrize("value, text", [(1.26e-5, "12.6 µs"), (9.996e-4, "1000 µs"), (0.02, "20 ms"), (1.5, "1.5 s"), (None, "—"), (math.nan, "—")])
def test_seconds_have_a_unit(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize("value, text", [(0.8123, "0.81×"), (1.0, "1.0×"), (9.96, "10×"), (123.4, "123×"), (None, "—")])
def test_ratios_are_short(value, text):
    assert units.times(value) == text


def test_an_ensemble_bench_has_its_section(tmp_path, monkeypatch):
    rows = [{"contender": "gone", "trajectories": 100, "note": "absent: no module"}]
    for threads in (1, 2):
        for tol in (1e-5, 1e-6):
            row = {"contender": "ours", "trajectories": 100, "tolerance": tol, "threads": threads, "seconds": 0.25 / threads, "error": 10 * tol}
            rows.append(row | {"at equal error": 0.2 / threads})
    monkeypatch.setattr(solve, "ensemble_rows", lambda quick: rows)
    solve.run(str(tmp_path), quick=True, only=["lotka-volterra"], contenders=["scipy-rk45"])
    text = (tmp_path / "report.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "ours" in line]
    assert lines == [["ours", "100", "1.0e-05", "250 ms", "200 ms", "125 ms", "100 ms"]] and "gone: absent: no module" in text
    assert [row for row in record.read(tmp_path)[1] if row["kind"] == "ensemble"] == [{"kind": "ensemble", **row} for row in rows]


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.name)
def test_a_module_of_the_bench_fits_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
