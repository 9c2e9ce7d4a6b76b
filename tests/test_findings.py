"""Findings: every quick mode runs, its table is whole, and one claim of each that does not hang on the seed. No test looks at seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import finding, finding_a, finding_b, finding_c, finding_d, finding_e  # noqa: E402
from bench.finding import column, groups, median_interval, publish, share_interval  # noqa: E402

pytestmark = pytest.mark.whole


def quick(module, tmp_path, name):
    """Rows of a quick run, which has also written its report, numbers and figure."""
    report = publish(name, module.measure, module.report, module.draw, str(tmp_path), quick=True)
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith(report) and f"python -m bench.{name}" in text and f"({name}.png)" in text
    assert written["config"] == {"quick": True} and len(written["rows"]) > 0
    return written["rows"], report


def tables(report):
    """Cells of every Markdown table of a report."""
    blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in report.split("\n\n")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block] for block in blocks if block]


def rectangular(report):
    found = tables(report)
    assert found and all(len({len(line) for line in block}) == 1 for block in found)
    return found


def test_frozen_k1_gives_another_gradient(tmp_path):
    rows, report = quick(finding_a, tmp_path, "finding_a")
    error, stiffness = rectangular(report)
    assert len(error) == len(stiffness) == 2 + len(finding_a.NETS) * len(finding_a.STEPS)
    assert all(row[f"exact descends {share:g}"] for row in rows for share in finding_a.DESCENT)
    small = [row for row in rows if row["net"] == "3-5-3, Glorot" and row["estimate"] == "error"]
    assert np.mean(column(small, f"frozen descends {finding_a.DESCENT[-1]:g}")) < 0.9
    ratios = [np.median(column(own, "ratio")) for own in groups(sorted(small, key=lambda row: -row["h"]), "h").values()]
    assert ratios == sorted(ratios) and ratios[-1] > 1e4  # grows as h⁻⁴: the cancellation that a frozen k₁ breaks


def test_the_gradients_that_finding_a_compares_are_those_of_differences():
    rng = np.random.default_rng(3)
    field, theta, u = finding_a.field_of(finding_a.NETS["3-5-3, N(0, 1)"], rng)
    run, direction = finding_a.one_step(field, theta, u, 0.3), rng.normal(size=theta.size)

    def value(s):
        return finding_a.term(finding_a.one_step(field, theta + s * direction, u, 0.3), "error", finding_a.EXACT).value

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    assert finding_a.term(run, "error", finding_a.EXACT).pull(1.0).theta @ direction == pytest.approx(slope, rel=1e-5)
    assert finding_a.term(run, "error", finding_a.FROZEN).pull(1.0).theta @ direction != pytest.approx(slope, rel=0.1)


def test_float32_below_its_precision_costs_evaluations(tmp_path):
    rows, report = quick(finding_b, tmp_path, "finding_b")
    (block,) = rectangular(report)
    assert len(block) == 2 + len(rows) / len(finding_b.WAYS)
    for (_, tolerance), own in groups(rows, "scale", "tolerance").items():
        nfe = {row["way"]: row["nfe"] for row in own}
        if tolerance < np.finfo(np.float32).eps:
            assert nfe["float32, state"] > 1.5 * nfe["float64"] and nfe["float32, hidden"] > nfe["float64"]
            assert {row["way"]: row["r initial"] for row in own}["float32, state"] > 20 * own[0]["r initial"]
        else:
            assert max(nfe.values()) <= nfe["float64"] + 12  # two steps


def test_adjoints_part_where_the_flow_contracts(tmp_path):
    rows, report = quick(finding_c, tmp_path, "finding_c")
    main, worth = rectangular(report)
    assert len(main) == 2 + 2 * len(finding_c.ADJOINTS) and len(worth) == 2 + 2
    assert max(column(rows, "believed")) < 1e-10 and max(column(rows, "oracle")) < 1e-10
    for (problem, adjoint), own in groups(rows, "problem", "adjoint").items():
        errors = [row["error"] for row in own]
        if adjoint == "backsolve" and problem == "van der Pol, μ = 10":
            assert errors[-1] is None or errors[-1] > 1.0
        else:
            assert errors[-1] < 1e-6 and errors[-1] < 1e-3 * errors[0]


def test_transposes_of_the_problems_of_finding_c():
    rng = np.random.default_rng(0)
    for name, make in finding_c.problems(False).items():
        field, theta, y0, _, w = make()
        y, y_dot, theta_dot = y0 + rng.normal(size=y0.shape), rng.normal(size=y0.shape), rng.normal(size=theta.shape)
        y_bar, theta_bar = field.vjp(0.3, y, theta, w)
        moved = [field.value(0.3, y + s * y_dot, theta + s * theta_dot) for s in (1e-5, -1e-5)]
        assert np.sum(y_bar * y_dot) + theta_bar @ theta_dot == pytest.approx(np.sum(w * (moved[0] - moved[1])) / 2e-5, rel=1e-6), name


def test_local_estimators_against_the_global_one(tmp_path):
    rows, report = quick(finding_d, tmp_path, "finding_d")
    drawn, trained = rectangular(report)
    assert len(drawn) == 2 + len(finding_d.DRAWN) * 2 and len(trained) == 2 + 3 * 2
    by_row = groups([row for row in rows if row["kind"] == "estimator"], "row")
    for one, four in zip(by_row["unbiased"], by_row["unbiased, 4 times"], strict=True):
        assert four["noise"] < one["noise"] and four["cv"] < one["cv"]
    assert min(column(by_row["unbiased, k₁ frozen"], "norm")) > 3 * max(column(by_row["unbiased"], "norm"))
    trainings = [row for row in rows if row["kind"] == "training"]
    assert all(2_000 <= row["spent"] < 2_000 + 400 for row in trainings)
    assert all(70 < row["spent"] / row["steps"] < 250 for row in trainings)  # there and back: some 50 evaluations each, the half of it is less than 70


def test_the_condition_number_falls_beyond_two_dimensions(tmp_path):
    rows, report = quick(finding_e, tmp_path, "finding_e")
    whole, inside = rectangular(report)
    assert len(whole) == 2 + 2 * 2 and len(inside) == 2 + 2
    by_row = groups(rows, "data", "row")
    for name in groups(rows, "data"):
        assert (column(by_row[name, "κ"], "kappa") < 0.5 * column(by_row[name, "none"], "kappa")).all()
        assert (column(by_row[name, "κ"], "kappa at the start") == column(by_row[name, "none"], "kappa at the start")).all()  # paired


def test_the_spectrum_that_finding_e_reads():
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    J = (turned * [3.0, 1.0, 2.0, 0.5])[None].repeat(3, axis=0)  # J e_4 = 0.5 u: σ_d's direction is the last coordinate of the padding
    J[0] *= 2.0
    found = finding_e.spectrum(J)
    assert [found[key] for key in ("kappa", "largest", "smallest", "padded")] == pytest.approx([6.0, 3.0, 0.5, 1.0])
    assert found["frobenius"] == pytest.approx(np.sqrt(14.25)) and found["block"] == pytest.approx(np.linalg.cond(J[1, :2, :2]))


def test_the_claim_of_finding_e_has_two_parts():
    def rows(nfe, accuracy):
        return [{"nfe": n, "accuracy": a} for n, a in zip(nfe, accuracy, strict=True)]

    none = rows([38, 38, 44, 38], [0.99, 0.98, 0.99, 0.99])
    assert finding_e.claim(none, rows([32, 32, 32, 32], [0.99, 0.98, 0.99, 0.988]), "nfe") == "yes"
    assert finding_e.claim(none, rows([32, 32, 32, 32], [0.97, 0.96, 0.96, 0.95]), "nfe") == "no"  # at a cost
    assert finding_e.claim(none, none, "nfe") == "no"  # not fewer
    assert finding_e.claim(none, rows([20, 56, 44, 38], [0.99, 0.98, 0.99, 0.99]), "nfe") == "undecided"


def test_intervals():
    assert share_interval(50, 100) == pytest.approx((0.404, 0.596), abs=1e-3)  # Wilson's
    assert median_interval(np.arange(1.0, 21.0)) == (6.0, 15.0)  # P(fewer than 6 of 20 below the median) = 2.07 %, of 7 5.8 %
    rng = np.random.default_rng(0)
    within = [low <= 0.0 <= high for low, high in (median_interval(rng.normal(size=30)) for _ in range(400))]
    assert 0.93 < np.mean(within) <= 1.0


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e"])
def test_command_line(name, monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(finding, "publish", lambda *arguments, **options: seen.update(options, name=arguments[0]) or "the report")
    monkeypatch.setattr(sys, "argv", [f"finding_{name}", "--quick", "--out", "somewhere"])
    assert sys.modules[f"bench.finding_{name}"].main() == 0
    assert (seen["name"], seen["quick"], seen["out"]) == (f"finding_{name}", True, "somewhere")
    assert capsys.readouterr().out.split("\n\n") == ["the report", "somewhere/report.md\n"]
