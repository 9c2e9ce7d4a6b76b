"""`bench train`: every contender solves the same problem, the floor counts what it says, and the report says what was measured. No test looks at seconds."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from adaptode.errors import InputError
from bench import charts, floor, memory, record, timing, train, train_report
from bench.floor import Product
from bench.train_contenders import ALL, CONTENDERS, Contender, adaptode_case
from bench.workloads import GROUPS, WORKLOADS, moons, spiral

SOME = ("small-1", "small-16", "spiral-10", "moons")

# --- workloads and contenders -----------------------------------------------------------------------------------------


def test_moons_are_scikit_learns():
    from sklearn.datasets import make_moons

    X, y = moons(256, 0.0, np.random.default_rng(0))
    other, labels = make_moons(256, noise=None, random_state=0)
    assert sorted(map(tuple, np.column_stack([X, y]).round(12))) == sorted(map(tuple, np.column_stack([other, labels]).round(12)))
    assert not np.array_equal(y, np.sort(y))


def test_the_spiral_has_its_derivative():
    X, h = np.array([[1.5, -0.5], [0.2, 1.0]]), 1e-4
    before, at, after = np.moveaxis(spiral(X, np.array([0.5 - h, 0.5, 0.5 + h])), 1, 0)
    np.testing.assert_allclose((after - before) / (2 * h), at**3 @ [[-0.1, 2.0], [-2.0, -0.1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", WORKLOADS)
def test_a_workload_is_the_same_in_both_dtypes(key):
    workload = WORKLOADS[key]
    layers, head = workload.layers(workload.params)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for layer in [*layers, head] for part in layer]), workload.params)
    assert workload.objective("float64", 1e-6).n_params == workload.params.size
    for values in (workload.params, *workload.data):
        np.testing.assert_array_equal(values.astype(np.float32).astype(np.float64), values)
    assert workload.tolerances_of("float32")[-1] >= 1e-6 > np.finfo(np.float32).eps and workload.group in GROUPS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("key", SOME)
@pytest.mark.parametrize("contender", [c for c in ALL if not c.only and not c.compiler], ids=lambda c: c.key)
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_every_contender_has_the_reference_loss_and_gradient(contender, key, dtype):
    for module in contender.needs:
        pytest.importorskip(module)
    workload, tolerance = WORKLOADS[key], 1e-6
    case = contender.prepare(workload, dtype, tolerance, 1)
    (loss, gradient), outputs = case.read(case.gradient()), case.outputs(case.forward())
    assert gradient.dtype == outputs.dtype == dtype
    assert workload.error(gradient) < 50 * tolerance
    assert loss == pytest.approx(workload.reference[0], rel=50 * tolerance)
    ours = adaptode_case(workload, "float64", 1e-9, 1)
    np.testing.assert_allclose(outputs, ours.forward(), rtol=0.0, atol=50 * tolerance * np.abs(ours.forward()).max())
    assert 12 < case.work() < 120


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_peer_has_the_reference_gradient():
    pytest.importorskip("torchode")
    contender, workload = CONTENDERS["torchode-compiled"], WORKLOADS["small-16"]
    if contender.missing():
        pytest.skip(contender.missing())
    case = contender.prepare(workload, "float64", 1e-6, 1)
    assert workload.error(case.read(case.gradient())[1]) < 1e-5 and case.work() == CONTENDERS["torchode"].prepare(workload, "float64", 1e-6, 1).work()


def test_a_compiler_is_looked_for(monkeypatch):
    contender = Contender("some", adaptode_case, compiler=True)
    monkeypatch.setattr("shutil.which", lambda name: name if name == "clang++" else None)
    assert contender.missing() is None
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert contender.missing() == "no C++ compiler" and CONTENDERS["adaptode"].missing() is None
    assert Contender("other", adaptode_case, ("no_such_module",), compiler=True).missing() == "no_such_module not installed"


def test_the_penalty_and_the_coordinates_are_asked_for():
    small, plain = WORKLOADS["small-16"], adaptode_case(WORKLOADS["small-16"], "float64", 1e-6, 1)
    with_penalty = CONTENDERS["adaptode-local"].prepare(small, "float64", 1e-6, 1)
    assert with_penalty.gradient().parts["local_error"] > 0.0 and set(plain.gradient().parts) == {"task"}
    served = {c.key: {w.group for w in WORKLOADS.values() if c.serves(w)} for c in ALL}
    assert served["adaptode"] == set(GROUPS) and served["adaptode-local"] == {"reg"} and served["adaptode-state"] == {"mnist"}
    assert all(groups == set(GROUPS) - {"reg"} for key, groups in served.items() if not key.startswith("adaptode"))


# --- the floor --------------------------------------------------------------------------------------------------------


def test_the_floor_of_moons_by_hand():
    workload = WORKLOADS["moons"]
    forward = floor.count(workload, 20, 3, 3, hidden=False, gradient=False)
    assert forward.products == {Product(256, 2, 64): 20, Product(256, 64, 64): 20, Product(256, 64, 2): 20, Product(256, 2, 1): 1}
    assert forward.tanh == {(256, 64): 40}
    assert forward.flops == 2 * 256 * (20 * (2 * 64 + 64 * 64 + 64 * 2) + 2)
    gradient = floor.count(workload, 20, 3, 3, hidden=False, gradient=True)
    assert gradient.tanh == forward.tanh  # nothing is evaluated twice
    assert gradient.flops == 2 * 256 * ((20 + 2 * 18) * (2 * 64 + 64 * 64 + 64 * 2) + 3 * 2)
    assert gradient.products[Product(64, 256, 64, left=True)] == gradient.products[Product(256, 64, 64, right=True)] == 18


def test_the_floor_of_mnist_by_hand():
    workload = WORKLOADS["mnist"]
    forward = floor.count(workload, 44, 7, 6, hidden=True, gradient=False)
    expected = {Product(512, 102, 100): 44, Product(512, 102, 784): 16, Product(512, 102, 102): 14}
    expected |= {Product(512, 784, 100): 1, Product(102, 784, 100): 1, Product(512, 784, 10): 1}
    assert forward.products == expected and forward.tanh == {(512, 100): 44}
    back = floor.count(workload, 44, 7, 6, hidden=True, gradient=True).products - Counter(expected)
    assert back == {
        Product(102, 512, 100, left=True): 36, Product(512, 100, 102, right=True): 36, Product(784, 512, 100, left=True): 1,
        Product(784, 102, 100, left=True): 1, Product(102, 100, 784, right=True): 1, Product(784, 512, 10, left=True): 1,
        Product(102, 784, 10): 1, Product(512, 10, 102, right=True): 1, Product(102, 512, 10, left=True): 1, Product(102, 10, 784): 1,
    }  # fmt: skip
    state = floor.count(workload, 44, 7, 6, hidden=False, gradient=False)
    assert state.flops == 2 * 512 * 784 * (44 * 200 + 10)


def test_floors_count_the_pullbacks_that_adaptode_makes():
    workload = WORKLOADS["moons"]
    evaluation = workload.objective("float64", 1e-6).value_and_grad(workload.params, *workload.data, rng=np.random.default_rng(0))
    run = workload.objective("float64", 1e-6).solve(workload.params, workload.data[0])
    assert evaluation.nfe_backward == 2 * floor.STAGES * run.steps.accepted.sum()  # a stage is evaluated again and pulled back


def test_rows_of_the_floor(monkeypatch):
    monkeypatch.setattr(floor, "product_seconds", lambda product, dtype: (product.flops * 1e-9, product.flops * 5e-10))
    monkeypatch.setattr(floor, "tanh_seconds", lambda rows, columns, dtype: rows * columns * 1e-9)
    forward, gradient = floor.rows(WORKLOADS["moons"], "float64", 1e-6, 1)
    assert forward["operation"] == "forward" and gradient["operation"] == "gradient" and forward["tanh"] == gradient["tanh"]
    for row in (forward, gradient):
        assert row["products"] == pytest.approx(row["flops"] * 1e-9) and row["seconds"] == row["products"] + row["tanh"]
        assert row["least"] == pytest.approx(row["products"] / 2 + row["tanh"])


def test_a_product_is_timed_in_its_own_shape(monkeypatch):
    seen = []
    monkeypatch.setattr(floor, "_median", lambda case: seen.append(case()) or 1.0 / len(seen))
    by_dot, in_blocks = floor.product_seconds(Product(3, 4, 5, left=True, right=True), "float32")
    shapes = [found.shape for found in seen if found is not None]
    assert shapes == [(3, 5), (1, 1)] and seen[1].dtype == np.float32
    assert by_dot == 1 / 2 - 1 / 4 and in_blocks == by_dot < 1 - 1 / 3  # without what a call itself takes; the faster of the two
    assert floor.tanh_seconds(10, 4, "float64") == 1 / 6 and len(seen) == 6


# --- processes --------------------------------------------------------------------------------------------------------


def test_the_variables_of_a_worker(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    one, two = timing.environment(1), timing.environment(2)
    assert not {"OPENBLAS_CORETYPE", "PYTHONDONTWRITEBYTECODE"} & set(one | two) and "XLA_FLAGS" in one and "XLA_FLAGS" not in two
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC"):
        assert (one[name], two[name]) == ("1", "2")


def test_a_quick_run(tmp_path):
    text = train.run(str(tmp_path), only=["small"], contenders=["adaptode", "adaptode-backsolve"], quick=True, budget=0.01, command="python -m bench train")
    head, rows = record.read(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradients.png", "report.md", "result.jsonl"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text and "## Small" in text and "## Targets" not in text
    assert head["config"]["threads"] == [1] and head["config"]["dtypes"] == ["float64"] and head["command"] == "python -m bench train"
    assert [(row["workload"], row["contender"], row["operation"]) for row in rows] == [
        (key, *which) for key in ("small-1", "small-16") for which in (("adaptode", "forward"), ("adaptode", "gradient"), ("adaptode-backsolve", "gradient"))
    ]
    for row in rows:
        assert row["calls"] >= 1 and 0.0 < row["lower"] <= row["seconds"] <= row["upper"] and row["first"] > 0.0 and row["nfe"] > 0
        assert row["operation"] == "forward" or row["error"] < 1e-6


def test_a_worker_that_dies_leaves_a_reason():
    spec = {"task": "time", "workload": "small-1", "dtype": "float64", "threads": 1, "contenders": ["nobody"]}
    (row,) = train._in_process(spec)
    assert row["contender"] == "nobody" and row["failed"] == "process ended with 1: KeyError: 'nobody'"
    assert train_report._where(row) == "small-1, float64, nobody"


def test_the_failing_have_a_row_and_the_others_go_on():
    def broken(*_):
        raise ValueError("no such luck\nmore")

    def double(workload, dtype, tolerance, threads):
        return adaptode_case(workload, "float64", tolerance, threads)

    three = [Contender("broken", broken), Contender("double", double), CONTENDERS["adaptode"]]
    rows = train.measure(WORKLOADS["small-1"], "float32", 1e-6, 1, three, 0.001)
    assert [row.get("failed") for row in rows] == ["ValueError: no such luck"] * 2 + ["TypeError: the gradient is float64, not float32"] * 2 + [None] * 2
    assert all("seconds" in row for row in rows[4:])


def test_unknown_names_are_refused(tmp_path):
    for wrong in ({"only": ["moon"]}, {"contenders": ["jax"]}, {"dtypes": ["float16"]}):
        with pytest.raises(InputError, match="is called"):
            train.run(str(tmp_path / "new"), **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others are Linux's to tell of")
def test_a_watch_sees_the_others_alone(monkeypatch):
    now = iter([(0.0, 0.0, 100.0), (10.0, 9.0, 118.0), (10.0, 9.0, 105.0), (10.0, 9.0, np.nan)])
    with monkeypatch.context() as patched:
        patched.setattr(timing.Watch, "_now", staticmethod(lambda: next(now)))
        watch = timing.Watch()
        assert [watch.others() for _ in range(3)] == [0.9, 0.0, None]
    assert timing.Watch()._now()[2] > 0.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is Linux's to tell")
def test_peak_memory_sees_what_a_call_takes_and_gives_back():
    try:
        memory.CLEAR.write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not let the peak be set back")
    size = 2**26
    found = memory.peak(lambda: np.ones(size // 8).sum())
    assert 0.9 * size < found < 1.5 * size
    assert memory.peak(lambda: None) < 0.1 * size
    row = memory.row(WORKLOADS["small-1"], CONTENDERS["adaptode"], "float64")
    assert row["bytes"] >= 0 and row["tolerance"] == 1e-6


def test_memory_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux only" in memory.row(WORKLOADS["small-1"], CONTENDERS["adaptode"], "float64")["failed"]


# --- the report -------------------------------------------------------------------------------------------------------

GOOD = {
    "moons forward": 1.6, "moons gradient": 2.1, "mnist forward": 3.1, "mnist gradient": 6.1, "small forward": 3.1, "small gradient": 3.1,
    "spiral forward": 3.1, "spiral gradient": 3.1, "memory": 3.1, "penalty": 1.09, "moons floor": 1.5, "mnist floor": 1.5, "threads": 1.7, "cold": 0.9,
}  # fmt: skip
BAD = {
    "moons forward": 1.4, "moons gradient": 1.9, "mnist forward": 2.9, "mnist gradient": 5.9, "small forward": 2.9, "small gradient": 2.9,
    "spiral forward": 2.9, "spiral gradient": 2.9, "memory": 2.9, "penalty": 1.11, "moons floor": 1.7, "mnist floor": 1.7, "threads": 1.5, "cold": 1.1,
}  # fmt: skip


def made_up(figures):
    """Rows as if measured: a peer's gradient takes 1 s, and a slower peer, which does not count, 100."""
    rows = []

    def add(key, contender, operation, seconds, threads=1):
        about = {"kind": "time", "workload": key, "tolerance": WORKLOADS[key].tolerances[0], "dtype": "float64", "threads": threads}
        about |= {"contender": contender, "operation": operation, "lower": 0.9 * seconds, "upper": 1.1 * seconds, "seconds": seconds}
        rows.append(about | {"calls": 7, "nfe": 20, "error": 1e-7, "loss": 1.0, "first": 2.0})

    for key in ("moons", "mnist", "spiral-10", "small-1"):
        for operation in ("forward", "gradient"):
            ratio = figures[f"{WORKLOADS[key].group} {operation}"]
            for contender, seconds in (("adaptode", 1 / ratio), ("adaptode-backsolve", 0.01), ("diffrax", 1.0), ("torchode", 100.0)):
                add(key, contender, operation, seconds)
        if f"{key} floor" in figures:
            ours = 1 / figures[f"{key} gradient"]
            about = {"kind": "floor", "workload": key, "tolerance": WORKLOADS[key].tolerances[0], "dtype": "float64", "threads": 1, "operation": "gradient"}
            rows.append(about | {"seconds": ours / figures[f"{key} floor"], "least": 0.1, "products": 0.1, "tanh": 0.1, "flops": 10**8})
    add("mnist", "adaptode", "gradient", 1 / figures["mnist gradient"] / figures["threads"], threads=2)
    add("reg-moons", "adaptode", "gradient", 1.0)
    add("reg-moons", "adaptode-local-own", "gradient", figures["penalty"])
    rows[-1]["error"] = None
    for contender, size in (("adaptode", 1e6), ("diffrax", 1e6 * figures["memory"]), ("torchode", 1e4)):
        about = {"kind": "memory", "workload": "mnist", "tolerance": 1.4e-8, "dtype": "float64", "threads": 1}
        rows.append(about | {"contender": contender, "bytes": int(size)})
    rows.append({"kind": "cold", "contender": "adaptode", "what": "", "processes": 3, "steps": {}, "total": figures["cold"]})
    return rows


def test_every_target_says_yes_and_no():
    good = train_report.targets(made_up(GOOD))
    assert len(good) == len(GOOD) and all(holds for _, holds, _ in good)
    for name in GOOD:
        found = train_report.targets(made_up(GOOD | {name: BAD[name]}))
        assert [holds for _, holds, _ in found].count(False) == 1, name
    assert train_report.targets([]) == []


def test_the_report_renders(tmp_path):
    rows = made_up(BAD | {"cold": 0.9})
    rows.append({"kind": "time", "workload": "small-1", "tolerance": 1e-6, "dtype": "float32", "threads": 2, "contender": "torchode", "failed": "no"})
    rows[0]["others"] = 0.1
    rows[4]["others"] = 0.93
    config = {"workloads": ["moons", "mnist", "spiral-10", "small-1", "reg-moons"], "contenders": list(CONTENDERS)}
    head = record.header("python -m bench train", config, absent={"diffrax-backsolve": "gone"})
    head["machine"] |= {"environment": {"OPENBLAS_CORETYPE": "Haswell"}, "load": 0.1}
    record.write(tmp_path, head, rows)
    head, rows = record.read(tmp_path)
    text = train_report.markdown(head, rows, train_report.figures(tmp_path, rows))
    assert rows[0]["workload"] == rows[4]["workload"] == "moons" and "- moons at 1e-06, float64, 1 thread: 0.93 cores\n" in text
    assert text.count("- **no**: ") == len(GOOD) - 1 and text.count("- yes: ") == 1
    assert "OPENBLAS_CORETYPE, exported here, was taken away for all" in text
    assert "- diffrax-backsolve: gone" in text and "- small-1, 1e-06, float32, torchode, 2 threads: failed, no" in text
    assert all(f"## {title}" in text for title in train_report.TITLES.values()) and "![gradients](gradients.png)" in text
    assert "None" not in text and "nan" not in text
    blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    assert all(len({line.count("|") for line in block}) == 1 for block in blocks if block)
    (line,) = [line for line in text.splitlines() if line.startswith("| moons") and " diffrax " in line]
    assert line.count("1.0×") == 2 and "1 s (900 ms – 1.1 s)" in line  # the fastest peer is the measure
    assert "+11.0%" in text and (tmp_path / "gradients.png").stat().st_size > 5_000


def test_bars_know_their_library(tmp_path):
    assert charts.color("diffrax-backsolve") == charts.COLORS["diffrax"] and charts.color("torchdiffeq") != charts.color("torchode")
    assert charts.color("by SVD") == charts.OTHER
    assert charts.bars(tmp_path / "none.png", {"nothing": {}}, "") == "" and not (tmp_path / "none.png").exists()


def test_nothing_of_the_bench_needs_a_peer_to_be_imported():
    root = Path(train.__file__).parent
    for path in root.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for library in ("jax", "diffrax", "torch", "torchdiffeq", "torchode"):
            assert f"\nimport {library}" not in text and f"\nfrom {library}" not in text, path.name
