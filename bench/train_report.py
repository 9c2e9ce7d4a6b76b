"""What `python -m bench train` says of its rows: tables, targets and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptode.experiments.report import table

from . import charts, cold, record
from .train_contenders import CONTENDERS
from .units import seconds, times
from .workloads import GROUPS, WORKLOADS

Row = dict[str, Any]
Setting = tuple[str, float, str, int]  # workload, tolerance, dtype, threads
TITLES = {
    "moons": "Two moons", "mnist": "MNIST's network", "spiral": "Spiral at observation times", "small": "Small", "reg": "The local error penalty",
}  # fmt: skip
SPEED = {("moons", "forward"): 1.5, ("moons", "gradient"): 2.0, ("mnist", "forward"): 3.0, ("mnist", "gradient"): 6.0} | {
    (group, operation): 3.0 for group in ("small", "spiral") for operation in ("forward", "gradient")
}
MEMORY, PENALTY, FLOOR, THREADS = 1 / 3, 0.10, 1.6, 1.6
DISTURBED = 0.2  # cores kept busy by others
HOW = (
    "Medians (and quartiles) of calls taken turn and turn about by all contenders, warm, on the clock. "
    "*forward* is a prediction: solve and readout; *gradient* is what a training step needs: the loss and its gradient with respect to "
    "every parameter. × is the speed relative to the fastest library that is not adaptode, at the same tolerance (rtol = atol), dtype and number of threads. "
    "Evaluations are those of the field in one forward solve. The error is the relative 2-norm of the whole parameter gradient's, against the discrete "
    "adjoint of DOP853 at 1e-12 in float64. *first* is the first gradient of a process that has imported everything: compilation and run, adaptode's "
    "compiled code on disk. Memory is by how much three gradients raise the resident memory of a warm process, in float64 on one thread; "
    "what adaptode keeps to use again is given back first, and so counts."
)


def setting_of(row: Mapping[str, Any]) -> Setting:
    return row["workload"], row["tolerance"], row["dtype"], row["threads"]


def timed(rows: Iterable[Row]) -> dict[Setting, dict[tuple[str, str], Row]]:
    """Rows that have seconds, by setting, then by contender and operation."""
    found: dict[Setting, dict[tuple[str, str], Row]] = {}
    for row in rows:
        if row["kind"] == "time" and "seconds" in row:
            found.setdefault(setting_of(row), {})[row["contender"], row["operation"]] = row
    return found


def fastest_peer(here: Mapping[tuple[str, str], Row], operation: str) -> Row | None:
    peers = [row for (name, op), row in here.items() if op == operation and not CONTENDERS[name].ours]
    return min(peers, key=lambda row: row["seconds"], default=None)


def markdown(head: Mapping[str, Any], rows: Sequence[Row], image: str) -> str:
    failed = list(dict.fromkeys(f"{_where(row)}: failed, {row['failed']}" for row in rows if "failed" in row))
    who = [f"- {key}: {CONTENDERS[key].note}" for key in head["config"]["contenders"] if key not in head["absent"]]
    parts = ["# Neural ODEs, timed", record.setting(head), _threads(head), HOW, "\n".join(who)]
    parts.append(_disturbed(rows))
    checks = targets(rows)
    parts += ["## Targets", record.targets(checks), everywhere(rows)] if checks else []
    parts.append(f"![gradients]({image})" if image else "")
    for group in GROUPS:
        keys = [key for key in head["config"]["workloads"] if WORKLOADS[key].group == group and any(row.get("workload") == key for row in rows)]
        if keys:
            parts += [f"## {TITLES[group]}", "\n".join(f"- {key}: {WORKLOADS[key].describe()}" for key in keys)]
            parts += [_penalty_table(rows, keys) if group == "reg" else _table(rows, keys), _floor_table(rows, keys)]
    parts.append("Jacobian penalties, κ(J), ‖J‖₂ and ‖J‖_F, against JAX and PyTorch: `python -m bench penalties`.")
    return record.markdown([*parts, record.left_out(head["absent"], failed)])


def _threads(head: Mapping[str, Any]) -> str:
    taken = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in head["machine"]["environment"]]
    text = "Every library has the number of threads that a row names, from the start of its process."
    return text + (f" {' and '.join(taken)}, exported here, {'were' if len(taken) > 1 else 'was'} taken away for all." if taken else "")


def _disturbed(rows: Sequence[Row]) -> str:
    """Where other processes were at work meanwhile: threads that wait for each other, as BLAS's and OpenMP's do, then wait a hundredfold."""
    found = {setting: max(row.get("others") or 0.0 for row in here.values()) for setting, here in timed(rows).items()}
    lines = [f"- {_name(setting)}: {others:.2f} cores" for setting, others in found.items() if others > DISTURBED]
    text = "**Other processes kept cores busy meanwhile**, so that what has as many threads as there are cores was slowed down, and not by itself:"
    return f"{text}\n\n" + "\n".join(lines) if lines else ""


def _where(row: Mapping[str, Any]) -> str:
    parts = [row.get("workload"), f"{row['tolerance']:g}" if "tolerance" in row else None, row.get("dtype"), row.get("contender")]
    parts += [f"{row['threads']} threads" if row.get("threads", 1) > 1 else None, "memory" if row["kind"] == "memory" else None]
    return ", ".join(part for part in parts if part)


def _table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    memory = {(row["workload"], row["tolerance"], row["contender"]): row["bytes"] for row in rows if row["kind"] == "memory" and "bytes" in row}
    header = ["workload", "tolerance", "dtype", "threads", "contender", "forward", "×", "gradient", "×", "evaluations", "error", "first", "memory"]
    lines = []
    for (key, tolerance, dtype, threads), here in timed(rows).items():
        best = {op: fastest_peer(here, op) for op in ("forward", "gradient")}
        for name in dict.fromkeys(name for name, _ in here) if key in keys else ():
            cells = [key, f"{tolerance:g}", dtype, str(threads), name]
            for op in ("forward", "gradient"):
                row, peer = here.get((name, op)), best[op]
                cells += [_spread(row), times(peer["seconds"] / row["seconds"]) if row and peer else "—"]
            row = here[name, "gradient"]
            of_memory = memory.get((key, tolerance, name)) if dtype == "float64" and threads == 1 else None
            error = "—" if row["error"] is None else f"{row['error']:.0e}"
            lines.append([*cells, str(row["nfe"]), error, seconds(row["first"]), "—" if of_memory is None else f"{of_memory / 2**20:.1f} MiB"])
    return table(header, lines)


def _spread(row: Row | None) -> str:
    return f"{seconds(row['seconds'])} ({seconds(row['lower'])} – {seconds(row['upper'])})" if row else "—"


def _penalty_table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    lines = [
        [key, f"{tolerance:g}", dtype, str(threads), local["contender"], _spread(plain), _spread(local), f"{local['seconds'] / plain['seconds'] - 1:+.1%}"]
        for (key, tolerance, dtype, threads), plain, local in _penalties(rows)
        if key in keys
    ]
    return table(["workload", "tolerance", "dtype", "threads", "penalty", "gradient", "with the penalty", "it adds"], lines)


def _penalties(rows: Sequence[Row]) -> list[tuple[Setting, Row, Row]]:
    names = "adaptode-local", "adaptode-local-own"
    pairs = [(at, here.get(("adaptode", "gradient")), here.get((name, "gradient"))) for at, here in timed(rows).items() for name in names]
    return [(at, plain, local) for at, plain, local in pairs if plain and local]


def _floors(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Rows of the floor with adaptode's seconds over theirs."""
    found, ours = [], timed(rows)
    for row in rows:
        mine = ours.get(setting_of(row), {}).get(("adaptode", row["operation"])) if row["kind"] == "floor" else None
        if mine:
            found.append((row, mine["seconds"] / row["seconds"]))
    return found


def _floor_table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    lines = []
    for row, ratio in _floors(rows):
        if row["workload"] in keys:
            key, tolerance, dtype, threads = setting_of(row)
            parts = [seconds(row[name]) for name in ("products", "tanh", "seconds")]
            ratios = f"{ratio:.2f}", seconds(row["least"]), f"{ratio * row['seconds'] / row['least']:.2f}"
            lines.append([key, f"{tolerance:g}", dtype, str(threads), row["operation"], f"{row['flops'] / 1e6:.0f}", *parts, *ratios])
    if not lines:
        return ""
    header = ["workload", "tolerance", "dtype", "threads", "operation", "10⁶ operations", "products", "tanh", "floor", "adaptode / floor"]
    header += ["own products", "adaptode / that"]
    about = "The floor: adaptode's matrix products by np.dot and tanh, timed alone, nothing computed twice; and by `adaptode.products`, where that is faster"
    return f"{about} (`bench/floor.py`).\n\n" + table(header, lines)


def _speeds(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[float, str]]:
    """By group and operation, the least of how many times as fast as the fastest peer, and where."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for setting, here in timed(rows).items():
        for op in ("forward", "gradient"):
            mine, peer = here.get(("adaptode-compiled", op)) or here.get(("adaptode", op)), fastest_peer(here, op)
            if mine and peer:
                ratio = peer["seconds"] / mine["seconds"]
                found.setdefault((WORKLOADS[setting[0]].group, op), []).append((ratio, f"{_name(setting)}, {peer['contender']}"))
    return {key: min(figures) for key, figures in found.items()}


def everywhere(rows: Sequence[Row]) -> str:
    """The least speeds over both dtypes and all numbers of threads."""
    lines = [f"{group}, {op}: {times(ratio)} ({where})" for (group, op), (ratio, where) in _speeds(rows).items()]
    return f"Targets are of float64 on one thread. The least speeds over all that was measured: {'; '.join(lines)}." if lines else ""


def targets(rows: Sequence[Row]) -> list[tuple[str, bool, str]]:
    """What training set out to reach, in float64 on one thread: the sentence, whether it holds wherever it was measured, the worst figure."""
    checks: list[tuple[str, bool, str]] = []
    rows = [row for row in rows if row.get("dtype", "float64") == "float64"]
    settings, all_threads = timed(row for row in rows if row.get("threads", 1) == 1), timed(rows)
    rows = [row for row in rows if row.get("threads", 1) == 1]
    speeds = _speeds(rows)
    for (group, op), limit in SPEED.items():
        if (group, op) in speeds:
            worst, where = speeds[group, op]
            checks.append((f"{group}, {op}: at least {limit:g} times as fast as the fastest peer", worst >= limit, f"{times(worst)} ({where})"))
    checks += _memory_target(rows, settings)
    pairs = [pair for pair in _penalties(rows) if pair[2]["contender"] == "adaptode-local-own"]
    if extra := [(local["seconds"] / plain["seconds"] - 1.0, _name(setting)) for setting, plain, local in pairs]:
        worst, where = max(extra)
        sentence = f"the local error penalty of the solver's own steps adds {PENALTY:.0%} to a gradient at most"
        checks.append((sentence, worst <= PENALTY, f"{worst:+.1%} ({where})"))
    for group in ("moons", "mnist"):
        if ratios := [(ratio, _name(setting_of(row))) for row, ratio in _floors(rows) if row["workload"] == group and row["operation"] == "gradient"]:
            worst, where = max(ratios)
            checks.append((f"{group}, gradient: within {FLOOR:g} times the floor", worst <= FLOOR, f"{worst:.2f} ({where})"))
    one, two = (
        {at[:3]: here["adaptode", "gradient"]["seconds"] for at, here in all_threads.items() if at[3] == threads and ("adaptode", "gradient") in here}
        for threads in (1, 2)
    )
    if gains := [(one[at] / two[at], _name((*at, 2))) for at in one if at in two and at[0] == "mnist"]:
        worst, where = min(gains)
        checks.append((f"mnist, gradient: two threads are {THREADS:g} times as fast as one", worst >= THREADS, f"{times(worst)} ({where})"))
    return checks + cold.target(rows)


def _memory_target(rows: Sequence[Row], settings: Mapping[Setting, Mapping[tuple[str, str], Row]]) -> list[tuple[str, bool, str]]:
    """Against the peer that is fastest at the gradient there."""
    taken = {(*setting_of(row), row["contender"]): row["bytes"] for row in rows if row["kind"] == "memory" and "bytes" in row}
    for setting, here in settings.items():
        peer = fastest_peer(here, "gradient")
        if setting[0] == "mnist" and peer and (*setting, "adaptode") in taken and taken.get((*setting, peer["contender"])):
            mine, theirs = taken[*setting, "adaptode"], taken[*setting, peer["contender"]]
            figure = f"{mine / theirs:.2f} ({mine / 2**20:.1f} MiB, {peer['contender']} {theirs / 2**20:.1f} MiB)"
            return [("mnist, gradient: a third of the fastest peer's memory at most", mine <= MEMORY * theirs, figure)]
    return []


def _name(setting: Setting) -> str:
    key, tolerance, dtype, threads = setting
    return f"{key} at {tolerance:g}, {dtype}, {threads} thread{'s' * (threads > 1)}"


def figures(folder: Path, rows: Sequence[Row]) -> str:
    """Seconds a gradient by contender, each workload at its first dtype, tolerance and number of threads; the file's name."""
    groups: dict[str, dict[str, float]] = {}
    seen = set()
    for setting, here in timed(rows).items():
        if setting[0] not in seen and not WORKLOADS[setting[0]].penalty:
            seen.add(setting[0])
            groups[_name(setting)] = {name: row["seconds"] for (name, op), row in here.items() if op == "gradient"}
    return charts.bars(folder / "gradients.png", groups, "seconds a gradient")
