"""The experiments: what they write, and that they train. Small budgets; the papers' claims are for the real runs."""

import json
import math
import re
import sys
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adaptode.errors import InputError
from adaptode.experiments import jobs, mnist, mnist_report, moons, moons_report, plots, report
from adaptode.solution import StepLog

ROWS = ("none", "frobenius", "spectral", "condition", "local-unbiased", "local-biased")


@pytest.fixture(autouse=True)
def small_figures(monkeypatch):
    monkeypatch.setitem(plots._STYLE, "savefig.dpi", 50)


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
    assert bars == sorted((t, min(h, round(1.0 - t, 9)), h) for t, h in zip(LOG.t, LOG.h, strict=True))  # cut at t1
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
                "nfe": nfe[name] + 2 * seed, "nfe_tight": 100, "accuracy": accuracy[name],
                "train_accuracy": accuracy[name],
                "condition_number": kappa[name], "condition_number_median": 2.0, "seconds": 1.0 + seed,
                "distance": rng.gamma(3.0, 0.1 + 0.1 * ("s" in name), 50),
                "noise_accuracy": np.linspace(accuracy[name], 0.6, 3),
            }
            for seed in range(2)
        ]  # fmt: skip
        rows.append(moons.summary(name, 0.5, trained[name]))
        pictures.append(
            moons_report.Picture(
                name,
                nfe[name],
                accuracy[name],
                grid,
                rng.random((20, 30)),
                rng.normal(size=(5, 8, 2)),
                np.arange(8) % 2,
                LOG,
            )  # fmt: skip
        )
    points = [moons.summary(name, weight, trained[name]) for name in ROWS[1:] for weight in (0.1, 1.0)] if sweep else []
    config = asdict(replace(moons.Config(), noise_stds=(0.0, 0.5, 1.0)))
    return moons_report.Outcome(config, [0, 1], rows, points, trained, pictures, 12.0, "adaptode reproduce moons")


@pytest.mark.parametrize("sweep", [False, True])
def test_moons_report(tmp_path, sweep):
    text = moons_report.write(tmp_path, outcome(sweep=sweep))
    assert "34.98 ± 2.98" in text and "NO " not in text
    markdown = (tmp_path / "report.md").read_text()
    assert "not bear out" not in markdown and ("Run with `--sweep`" in markdown) == (not sweep)
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
    assert all(path.stat().st_size > 4_000 for path in folder.glob("*.png"))
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


def test_a_norm_that_costs_nothing_is_reported():
    rows = outcome().rows

    def point(nfe, accuracy):
        return {"name": "spectral", "weight": 0.03, "nfe": {"mean": nfe}, "accuracy": {"mean": accuracy}}

    assert len(moons_report.findings(rows)) == 6
    for nfe, accuracy, holds in ((20.0, 0.995, False), (20.0, 0.99, True), (33.0, 0.999, True)):
        claim = moons_report.findings(rows, [point(nfe, accuracy)])[3]
        assert claim.claim.startswith("Only the condition number") and claim.holds == holds
        assert ("spectral at λ = 0.03: NFE 20.0, accuracy 99.50" in claim.evidence) == (not holds)


def test_a_report_that_disagrees_says_so(tmp_path):
    made = outcome()
    made.rows[1]["nfe"] = {"mean": 50.0, "std": 0.0, "values": [50.0, 50.0]}
    text = moons_report.write(tmp_path, made)
    assert "NO   All three Jacobian penalties lower the NFE" in text
    markdown = (tmp_path / "report.md").read_text()
    assert "**No.** All three Jacobian penalties" in markdown and "do not bear out" in markdown


# --- moons ------------------------------------------------------------------------------------------------------------


def test_every_row_has_its_penalty():
    config = moons.Config()
    found = {name: moons.penalties(config, name, config.weights[name]) for name in ROWS}
    assert moons.ROWS == ROWS and found["none"] == ()
    assert [type(found[name][0]).__name__ for name in ROWS[1:]] == [
        "JacobianNorm", "JacobianNorm", "ConditionNumber", "LocalError", "LocalError",
    ]  # fmt: skip
    assert found["frobenius"][0].kind == "frobenius" and found["spectral"][0].kind == "spectral"
    assert [found[name][0].sampling for name in ROWS[4:]] == ["unbiased", "biased"]
    # The norms weigh the same throughout; the others grow from 0 to the λ of the report.
    assert found["frobenius"][0].weight(0) == config.weights["frobenius"]
    for name in ROWS[3:]:
        weight = found[name][0].weight
        assert weight(0) == 0.0 and weight(config.steps // 2) == weight(config.steps) == config.weights[name]
    assert all(config.weights[name] in config.sweep[name] for name in ROWS[1:])


def test_moons_data_belong_to_the_seed():
    config = moons.Config(n_train=30, n_test=20)
    X, y, X_test, y_test = moons.data(config, 3)
    assert X.shape == (30, 2) and X_test.shape == (20, 2) and y.shape == (30,) and set(y_test) == {0, 1}
    assert np.array_equal(X, moons.data(config, 3)[0]) and not np.array_equal(X, moons.data(config, 4)[0])
    assert not set(map(tuple, X)) & set(map(tuple, X_test))


TINY = moons.Config(
    hidden=(8,), n_train=60, n_test=40, epochs=2, batch_size=30, radius_step=0.5, sphere_points=4,
    noise_stds=(0.0, 0.5), sweep={name: (moons.Config().weights[name], 0.5) for name in ROWS[1:]},
)  # fmt: skip


def test_moons_end_to_end(tmp_path, capsys):
    text = moons.run(tmp_path, seeds=2, sweep=True, n_jobs=1, config=TINY)
    result = check_folder(tmp_path, ROWS, {"nfe", "accuracy", "condition_number", "seconds", "distance"})
    assert result["seeds"] == [0, 1] and result["config"]["hidden"] == [8] and result["config"]["epochs"] == 2
    assert {point["weight"] for point in result["sweep"] if point["name"] == "condition"} == {0.02, 0.5}
    for row in result["rows"]:
        assert all((nfe - 2) % 6 == 0 and nfe >= 8 for nfe in row["nfe"]["values"])
        assert row["noise_accuracy"][0] == pytest.approx(row["accuracy"]["mean"])
        assert row["name"] in text
    assert [point["name"] for point in result["sweep"]] == [name for name in ROWS[1:] for _ in range(2)]
    # 6 rows and 5 more weights, 2 seeds each: one line on stderr a training, nothing on stdout
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 22


def test_moons_try_a_gentler_norm_without_a_sweep(tmp_path, capsys):
    moons.run(tmp_path, seeds=1, first_seed=7, n_jobs=1, config=replace(TINY, gentle=0.5))
    result = check_folder(tmp_path, ROWS, {"nfe", "accuracy"})
    assert result["seeds"] == [7] and result["command"] == "adaptode reproduce moons --seeds 1 --first-seed 7"
    assert [(point["name"], point["weight"]) for point in result["sweep"]] == [("frobenius", 0.5), ("spectral", 0.5)]
    assert len(result["findings"]) == 7 and len(capsys.readouterr().err.splitlines()) == 8
    assert not (tmp_path / "sweep.png").exists()


def test_a_training_is_repeatable_and_its_numbers_are_right():
    task = moons.Task(TINY, "condition", 0.02, 1)
    first, again = moons.train(task), moons.train(task)
    assert np.array_equal(first["params"], again["params"])
    X, y, X_test, y_test = moons.data(TINY, 1)
    model = moons.objective(TINY, "condition", 0.02)
    theta = first["params"][: model.field.n_params]
    assert first["accuracy"] == np.mean((model.predict(first["params"], X_test)[:, 0] > 0) == y_test)
    assert first["nfe"] == 2 + 6 * len(model.solve(first["params"], X_test).steps)
    kappa = [np.linalg.cond(model.field.jacobian(0.0, x[None], theta)[0]) for x in X]
    assert first["condition_number"] == pytest.approx(np.mean(kappa))
    assert len(first["distance"]) == round(first["train_accuracy"] * len(X))
    for key in ("nfe", "accuracy", "condition_number"):
        assert first[key] == again[key]
    assert np.array_equal(first["distance"], again["distance"])


def test_jobs_keep_their_order_on_two_processes():
    found = jobs.run_all(math.sqrt, [1.0, 4.0, 9.0], n_jobs=2)
    assert found == [1.0, 2.0, 3.0] == jobs.run_all(math.sqrt, [1.0, 4.0, 9.0], n_jobs=1)


def test_a_failed_training_ends_the_run():
    with pytest.raises(ValueError, match="math domain"):
        jobs.run_all(math.sqrt, [1.0, -1.0], n_jobs=1)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    for n_jobs in (1, 2):
        with pytest.raises(InputError, match="pip install"):
            jobs.run_all(math.sqrt, [1.0], n_jobs=n_jobs)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(InputError, match="pip install"):
        plots.figure()


@pytest.mark.slow
def test_moons_quick_shows_what_the_poster_shows(tmp_path):
    moons.run(tmp_path, quick=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [claim["holds"] for claim in result["findings"][:3]] == [True, True, True], result["findings"]


# --- MNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_digits_end_to_end(tmp_path, dtype):
    config = mnist.Config("digits", steps=2, dtype=dtype, tolerance=1e-3, hidden=8, batch_size=400)
    text = mnist.run(tmp_path, n_jobs=1, config=config)
    names = ("none", "local-unbiased", "local-biased")
    result = check_folder(tmp_path, names, {"nfe", "accuracy", "train_accuracy", "predict_seconds", "seconds"})
    assert result["config"]["dtype"] == dtype and result["seeds"] == [0] and "the paper's numbers are MNIST's" in text
    assert result["rows"][0]["nfe_ratio"] == result["rows"][0]["predict_speedup"] == 1.0
    assert all(len(result["histories"][name]["step"]) == 2 for name in names)
    # The same start and the same data: before the first update the rows agree on the forward solve.
    assert len({result["histories"][name]["error"][0] for name in names}) == 1
    markdown = (tmp_path / "report.md").read_text()
    assert ("This is the published setting" in markdown) == (dtype == "float32")


def test_mnist_is_honest_about_its_length():
    made = mnist_report.Outcome({"data": "mnist", "steps": 300, "batch_size": 512}, [0], [], 60000, {}, {}, 1.0, "")
    assert mnist_report._length(made).endswith("4% of the paper's training, so accuracies are not its final ones.")
    whole = made._replace(config={**made.config, "steps": 7500})
    assert mnist_report._length(whole) == "7500 steps of 512 samples a row, 64.0 epochs of mnist."


def test_float32_is_the_published_setting():
    ours, published = mnist.configure("mnist", 300, "float64"), mnist.configure("mnist", 300, "float32")
    assert (published.tolerance, published.step, published.weight_start, published.weight_end) == (
        1.4e-8,
        "initial",
        2.5,
        1,
    )
    assert ours.tolerance > 1.4e-8 and ours.step == "solver"
    for config in (ours, published):
        assert (config.hidden, config.batch_size, config.learning_rate, config.method) == (100, 512, 1e-3, "Tsit5")
    given = mnist.configure("digits", 7, "float32", (3.0, 2.0))
    assert (given.data, given.steps, given.weight_start, given.weight_end) == ("digits", 7, 3.0, 2.0)


def test_penalty_of_the_mnist_rows():
    config = mnist.Config(steps=100)
    assert mnist.objective(config, 64, 10, "none").penalties == ()
    model = mnist.objective(config, 64, 10, "local-biased")
    (penalty,) = model.penalties
    assert penalty.sampling == "biased" and penalty.step == "solver"
    assert penalty.weight(0) == config.weight_start > penalty.weight(50) > penalty.weight(100) == config.weight_end
    assert model.field.sizes == (64, 100, 64) and model.field.time == "every" and model.method.name == "Tsit5"


def test_evaluation_is_over_all_samples():
    config = mnist.Config(data="digits")
    X, y, _, _ = mnist.load(config, None)
    X, y = X[:70], y[:70]
    model = mnist.objective(config, 64, 10, "none")
    params = model.init(0)
    found, nfe, seconds = mnist.evaluate(model, params, X, y, 32)
    parts = [model.predict(params, X[i : i + 32]).argmax(axis=1) for i in (0, 32, 64)]
    assert found == np.mean(np.concatenate(parts) == y) and nfe > 0 and seconds > 0
