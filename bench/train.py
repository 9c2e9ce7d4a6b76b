"""Forward solve, exact gradient, and gradient with the local error penalty: medians of repeats taken turn and turn about."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from statistics import median

import numpy as np

import adaptode as ao

from .timing import turn_about

# name, layer sizes, where the time enters, batch, dtype, tolerance
WORKLOADS = [
    ("moons", (2, 64, 64, 2), "none", 256, "float64", 1e-6),
    ("moons", (2, 64, 64, 2), "none", 256, "float64", 1e-3),
    ("mnist", (784, 100, 784), "every", 512, "float64", 1.4e-8),
    ("mnist", (784, 100, 784), "every", 512, "float64", 1e-5),
    ("mnist", (784, 100, 784), "every", 512, "float32", 1e-5),
]


def table(repeats: int) -> str:
    """The whole table as text: milliseconds, compile time apart."""
    threads = {name: os.environ.get(name, "unset") for name in ("OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    lines = [
        f"adaptode {ao.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {', '.join(f'{k} {v}' for k, v in threads.items())}",
        "",
        "| workload | dtype | tolerance | NFE | forward ms | gradient ms | + local error ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sizes, time_mode, batch, dtype, tolerance in WORKLOADS:
        rng = np.random.default_rng(0)
        field = ao.MLP(sizes, time=time_mode)
        head = ao.LinearHead(field.n, 1)
        X, y = rng.random((batch, field.n)).astype(dtype), rng.integers(0, 2, batch)
        options = {"head": head, "method": "Tsit5", "rtol": tolerance, "atol": tolerance, "dtype": dtype}
        plain = ao.Objective(field, "binary_cross_entropy", **options)
        local = ao.Objective(field, "binary_cross_entropy", penalties=[ao.LocalError(1.0)], **options)
        params = plain.init(0)
        cases: list[Callable[[], object]] = [
            lambda o=plain, p=params, X=X: o.predict(p, X),
            lambda o=plain, p=params, X=X, y=y: o.value_and_grad(p, X, y, rng=np.random.default_rng(0)),
            lambda o=local, p=params, X=X, y=y: o.value_and_grad(p, X, y, rng=np.random.default_rng(0)),
        ]
        times = turn_about(cases, repeats)
        nfe = plain.solve(params, X).nfev
        lines.append(f"| {name} | {dtype} | {tolerance:g} | {nfe} | " + " | ".join(f"{1e3 * median(t):.2f}" for t in times) + " |")
    return "\n".join(lines)
