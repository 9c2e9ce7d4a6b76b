"""`python -m bench cold`: what a new process waits for: the import, then the first solve or gradient, adaptode's compiled code on disk.

Processes are started one after the other, after one that compiles. Rows are medians in seconds, each over what came before it in its process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from adaptode.experiments.report import open_folder, table, write_text

from . import charts, record, timing

PROCESSES, LIMIT = 9, 1.0
MOONS, EQUATION = "first gradient on moons", "first solve_ivp"
TIMES = """
import json, time
times, began = {}, time.perf_counter()
def lap(name):
    global began
    times[name] = time.perf_counter() - began
    began = time.perf_counter()
"""
OURS = """
import numpy as np, adaptode as ao
lap("import")
objective = ao.Objective(ao.MLP((2, 64, 64, 2)), "binary_cross_entropy", head=ao.LinearHead(2, 1), method="Tsit5", rtol=1e-6, atol=1e-6)
params, X, y = objective.init(0), np.ones((256, 2)), np.arange(256) % 2
objective.predict(params, X)
lap("first solve")
objective.value_and_grad(params, X, y, rng=np.random.default_rng(0))
lap("gradient")
"""
IVP = """
import numpy as np, adaptode as ao
lap("import")
ao.solve_ivp(lambda t, y: -y, (0.0, 1.0), [1.0], "Tsit5")
lap("first solve")
ao.solve_ivp(lambda t, y: -2 * y, (0.0, 1.0), [1.0], "Tsit5")
lap("second solve")
"""
THEIRS = """
import numpy, {library}
lap("import")
from bench.train_contenders import CONTENDERS
from bench.workloads import WORKLOADS
contender, workload = CONTENDERS["{contender}"], WORKLOADS["moons"]
workload.params, workload.data
lap("bench")
contender.prepare(workload, "float64", 1e-6, 1).gradient()
lap("gradient")
times.pop("bench")
"""
SCRIPTS = {  # contender -> what it does, library, script
    "adaptode": (MOONS, "adaptode", OURS),
    "adaptode-solve_ivp": (EQUATION, "adaptode", IVP),
    **{name: (MOONS, name, THEIRS.format(library=name, contender=name)) for name in ("diffrax", "torchdiffeq", "torchode")},
}
STEPS = ("import", "first solve", "gradient", "second solve")


def measure(names: Iterable[str], processes: int = PROCESSES) -> list[dict[str, Any]]:
    """A row for each contender: seconds of each step of its script, and `total` up to the first result of interest."""
    rows = []
    for name in names:
        what, _, script = SCRIPTS[name]
        found = []
        for _ in range(processes + 1):
            code = TIMES + script + "print(json.dumps(times))"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=timing.environment(1))
            if done.returncode:
                rows.append({"kind": "cold", "contender": name, "what": what, "failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]})
                break
            found.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            steps = {step: median(times[step] for times in found[1:]) for step in found[0]}
            total = median(sum(times[step] for step in times if step != "second solve") for times in found[1:])
            rows.append({"kind": "cold", "contender": name, "what": what, "processes": processes, "steps": steps, "total": total})
    return rows


def run(out: str = "runs/bench-cold", *, processes: int = PROCESSES, command: str = "") -> str:
    """Measure, write result.jsonl, report.md and a figure to `out`; the report."""
    folder = open_folder(out)
    absent = {name: f"{library} not installed" for name, (_, library, _) in SCRIPTS.items() if importlib.util.find_spec(library) is None}
    head = record.header(command, {"processes": processes}, ("jax", "diffrax", "torch", "torchdiffeq", "torchode"), absent)
    rows = measure([name for name in SCRIPTS if name not in absent], processes)
    record.write(folder, head, rows)
    bars = {row["contender"]: row["total"] for row in rows if "total" in row and row["what"] == MOONS}
    image = charts.bars(folder / "cold.png", {MOONS: bars}, "seconds from the start of the import")
    write_text(folder / record.REPORT, text := markdown(head, rows, image))
    return text


def target(rows: Sequence[dict[str, Any]]) -> list[tuple[str, bool, str]]:
    found = [row["total"] for row in rows if row["kind"] == "cold" and row["contender"] == "adaptode" and "total" in row]
    return [(f"import and first gradient on moons take {LIMIT:g} s at most", found[0] <= LIMIT, f"{found[0]:.2f} s")] if found else []


def markdown(head: dict[str, Any], rows: Sequence[dict[str, Any]], image: str) -> str:
    cells = []
    for row in (row for row in rows if "total" in row):
        cells.append([row["contender"], row["what"], *(f"{row['steps'][s]:.2f} s" if s in row["steps"] else "—" for s in STEPS), f"**{row['total']:.2f} s**"])
    failed = [f"{row['contender']}: failed, {row['failed']}" for row in rows if "failed" in row]
    return record.markdown(
        [
            "# Cold start, timed",
            record.setting(head),
            f"Medians over {head['config']['processes']} new processes, on the clock, one thread; adaptode's compiled code is on disk, JAX compiles in every "
            "process. The total is import to first gradient on moons (256 samples, 2-64-64-2, 1e-6), or to the first solve of one equation.",
            f"![cold]({image})" if image else "",
            table(["contender", "to what", *STEPS, "total"], cells),
            "## Targets\n\n" + record.targets(target(rows)) if target(rows) else "",
            record.left_out(head["absent"], failed),
        ]
    )
