"""The experiments: what they write, and that they train. Small budgets; the papers' claims are for the real runs."""

import json
import math
import re
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adaptode.errors import InputError
from adaptode.experiments import mnist, mnist_report, moons, moons_report, plots, report
from adaptode.solution import StepLog

ROWS = ("none", "frobenius", "spectral", "condition", "local-unbiased", "local-biased")


# --- report -----------------------------------------------------------------------------------------------------------


def test_summary_over_seeds():
    assert report.summarize([1, 2, 3]) == {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}
    assert report.summarize([5]) == {"mean": 5.0, "std": 0.0, "values": [5.0]}
    assert report.plus_minus(report.summarize([0.5, 0.6]), 1, 100) == "55.0 ± 7.1"
    assert report.plus_minus(report.summarize([0.5]), 1, 100) == "50.0"


def test_table_lines_up():
    text = report.table(("row", "NFE"), [("none", "34.98 ± 2.98"), ("condition", "27")])
    assert text.splitlines() == [
        "| row       |          NFE |",
        "|-----------|-------------:|",
        "| none      | 34.98 ± 2.98 |",
        "| condition |           27 |",
    ]


def test_result_is_plain_json(tmp_path):
    rows = [{"name": "none", "nfe": report.summarize(np.array([20, 26])), "bad": math.inf, "array": np.eye(2)}]
    path = report.write_result(tmp_path, {"weights": (1, np.float32(0.5))}, [0, 1], rows, more=np.int64(3))
    result = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert result["config"] == {"weights": [1, 0.5]} and result["seeds"] == [0, 1] and result["more"] == 3
    assert result["rows"][0]["nfe"]["mean"] == 23.0 and result["rows"][0]["bad"] is None
    assert result["rows"][0]["array"] == [[1.0, 0.0], [0.0, 1.0]]
    assert {"adaptode", "python", "numpy", "numba", "scipy"} <= set(result["versions"])
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write to.*--out"):
            report.open_folder(bad)
    made = report.open_folder(tmp_path / "a" / "b")
    assert made.is_dir() and not list(made.iterdir())


# --- figures ----------------------------------------------------------------------------------------------------------


def test_rows_have_one_look_each():
    for part in (1, 2):  # colour, marker
        assert len({style[part] for style in plots.ROW_STYLE.values()}) == len(plots.ROW_STYLE) == len(ROWS)
    assert tuple(plots.ROW_STYLE) == ROWS


LOG = StepLog(
    t=np.array([0.0, 0.25, 0.25, 0.6]),
    h=np.array([0.25, 0.6, 0.35, 0.5]),
    error=np.array([0.1, 3.0, 0.5, 0.4]),
    stiffness=np.full(4, 0.1),
    accepted=np.array([True, False, True, True]),
)


def test_step_sizes_show_every_attempt():
    ax = plots.step_sizes(LOG.t, LOG.h, LOG.accepted, t1=1.0)
    bars = sorted((round(p.get_x(), 9), round(p.get_width(), 9), round(p.get_height(), 9)) for p in ax.patches)
    assert bars == sorted((t, h, h) for t, h in zip(LOG.t, LOG.h, strict=True))
    assert "rejected (1)" in [text.get_text() for text in ax.get_legend().get_texts()]
    calm = plots.step_sizes(LOG.t[:1], LOG.h[:1], LOG.accepted[:1])
    assert calm.get_legend() is None
    plt.close("all")


def outcome(tmp_path=None, sweep=False):
    """A moons result made up to look like the poster's."""
    rng = np.random.default_rng(0)
    nfe = dict(zip(ROWS, (35, 14, 20, 27, 30, 30), strict=True))
    accuracy = dict(zip(ROWS, (0.998, 0.886, 0.885, 0.997, 0.996, 0.996), strict=True))
    kappa = dict(zip(ROWS, (5.3, 27.3, 45.9, 2.1, 5.0, 5.0), strict=True))
    trained, rows, pictures = {}, [], []
    grid = np.linspace(-2, 3, 30), np.linspace(-2, 2, 20)
    for name in ROWS:
        trained[name] = [
            {
                "nfe": nfe[name] + 2 * seed, "accuracy": accuracy[name], "train_accuracy": accuracy[name],
                "condition_number": kappa[name], "condition_number_median": 2.0, "seconds": 1.0 + seed,
                "distance": rng.gamma(3.0, 0.1 + 0.1 * ("s" in name), 50),
                "noise_accuracy": np.linspace(accuracy[name], 0.6, 3),
            }
            for seed in range(2)
        ]  # fmt: skip
        rows.append(moons.summary(name, 0.5, trained[name]))
        pictures.append(
            moons_report.Picture(
                name, nfe[name], accuracy[name], grid, rng.random((20, 30)), rng.normal(size=(5, 8, 2)),
                np.arange(8) % 2, LOG,
            )  # fmt: skip
        )
    points = [moons.summary(name, weight, trained[name]) for name in ROWS[1:] for weight in (0.1, 1.0)] if sweep else []
    config = asdict(replace(moons.Config(), noise_stds=(0.0, 0.5, 1.0)))
    return moons_report.Outcome(config, [0, 1], rows, points, trained, pictures, 12.0, "adaptode reproduce moons")


@pytest.mark.parametrize("sweep", [False, True])
def test_moons_report(tmp_path, sweep):
    text = moons_report.write(tmp_path, outcome(sweep=sweep))
    assert "34.98 ± 2.98" in text and "NO " not in text
    assert "not bear out" not in (tmp_path / "report.md").read_text()
    check_folder(tmp_path, ROWS, {"nfe", "accuracy", "condition_number", "seconds"})
    assert (tmp_path / "sweep.png").exists() == sweep


def check_folder(folder, names, columns):
    """result.json has its rows; report.md shows every picture and leaves no placeholder."""
    result = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert [row["name"] for row in result["rows"]] == list(names)
    for row in result["rows"]:
        for column in columns:
            assert math.isfinite(row[column]["mean"]) and row[column]["std"] >= 0
            assert len(row[column]["values"]) == len(result["seeds"])
    markdown = (folder / "report.md").read_text()
    images = {path.name for path in folder.glob("*.png")}
    assert images and set(re.findall(r"\]\((.*?)\)", markdown)) == images
    assert all(path.stat().st_size > 10_000 for path in folder.glob("*.png"))
    assert "None" not in markdown and "nan" not in markdown
    return result


def test_findings_say_no_when_the_numbers_do():
    good = outcome().rows
    assert all(claim.holds for claim in moons_report.findings(good))

    def spoiled(name, column, value):
        rows = [dict(row) for row in good]
        row = next(row for row in rows if row["name"] == name)
        row[column] = {"mean": value, "std": 0.0, "values": [value, value]}
        return [claim.holds for claim in moons_report.findings(rows)]

    assert spoiled("spectral", "nfe", 36.5)[:3] == [False, True, False]
    assert spoiled("condition", "accuracy", 0.992)[:3] == [True, False, True]
    assert spoiled("condition", "nfe", 40.0)[:3] == [False, False, True]
    assert spoiled("frobenius", "accuracy", 0.9979)[:3] == [True, True, False]
    assert not spoiled("frobenius", "condition_number", 1.5)[3]
    assert not spoiled("spectral", "distance", 0.0)[4]
    assert not spoiled("local-biased", "nfe", 37.0)[5] and not spoiled("local-unbiased", "accuracy", 0.9)[5]


def test_a_report_that_disagrees_says_so(tmp_path):
    made = outcome()
    made.rows[1]["nfe"] = {"mean": 50.0, "std": 0.0, "values": [50.0, 50.0]}
    text = moons_report.write(tmp_path, made)
    assert "NO   All three Jacobian penalties lower the NFE" in text
    markdown = (tmp_path / "report.md").read_text()
    assert "**No.** All three Jacobian penalties" in markdown and "do not bear out" in markdown
