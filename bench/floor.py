"""The least that adaptode's algorithm can take on a workload: its matrix products and tanh, each as fast as they are alone, and nothing evaluated twice.

An evaluation has one product a layer, a pullback two: W̄ = xᵀ z̄ and x̄ = z̄ Wᵀ. In hidden coordinates (`adaptode.fields.hidden`) the first layer is
(B, m)·(m, h) in place of (B, n)·(n, h) and there is no last one; every attempt, and the rule for the first step, lifts twice by (B, m)·(m, n), an attempt's
stiffness estimate has two products with m × m, and both ends have products with n, or with the readout's outputs, whose number is the rank of its cotangents.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from adaptode import activations, products
from adaptode.fields.hidden import hidden_size

from .timing import on_the_wall
from .workloads import Workload

STAGES = 6  # of Tsit5 that are pulled back a step: its seventh is the next one's first
REPEATS, SECONDS = 31, 0.15


class Product(NamedTuple):
    """(m, k)·(k, n); the flags say which factor lies transposed in memory."""

    m: int
    k: int
    n: int
    left: bool = False
    right: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n


class Work(NamedTuple):
    """How often each product is made and how often tanh of (rows, columns) numbers is taken."""

    products: Counter[Product]
    tanh: Counter[tuple[int, int]]

    @property
    def flops(self) -> int:
        return sum(count * product.flops for product, count in self.products.items())


def count(workload: Workload, evaluations: int, attempts: int, accepted: int, hidden: bool, gradient: bool) -> Work:
    """The work of one forward solve with its readout or, with `gradient`, of that and the transpose of both."""
    made: Counter[Product] = Counter()
    batch, sizes, n = workload.batch, workload.sizes, workload.sizes[0]
    pullbacks = STAGES * accepted if gradient else 0
    if hidden:
        m, first = hidden_size(workload.field), sizes[1]
        made[Product(batch, n, first)] += 1  # z₀ = y₀ W₁
        made[Product(m, n, first)] += 1  # M = Ŵ W₁
        made[Product(batch, m, n)] += 2 * attempts + 2
        made[Product(batch, m, m)] += 2 * attempts
        if gradient:
            made[Product(n, batch, first, left=True)] += 1  # W̄₁ = y₀ᵀ z̄₀ + Ŵᵀ M̄
            made[Product(n, m, first, left=True)] += 1
            made[Product(m, first, n, right=True)] += 1  # Ŵ̄ = M̄ W₁ᵀ + αᵀ ȳ
            if r := workload.outputs:  # ȳ = l r
                made += Counter([Product(m, n, r), Product(batch, r, m, right=True), Product(m, batch, r, left=True), Product(m, r, n)])
            else:
                made += Counter([Product(batch, n, m, right=True), Product(m, batch, n, left=True)])
        sizes = (m, *sizes[1:-1])
    for i, o in pairwise(sizes):
        made[Product(batch, i, o)] += evaluations
        made[Product(i, batch, o, left=True)] += pullbacks
        made[Product(batch, o, i, right=True)] += pullbacks
    if workload.outputs:
        made[Product(batch, n, workload.outputs)] += 1
        made[Product(n, batch, workload.outputs, left=True)] += gradient
        made[Product(batch, workload.outputs, n, right=True)] += gradient and not hidden
    tanh = Counter((batch, width) for width in workload.sizes[1:-1])
    return Work(+made, Counter({shape: times * evaluations for shape, times in tanh.items()}))


def product_seconds(product: Product, dtype: str) -> tuple[float, float]:
    """Median seconds of one product into a given array, those of the call itself taken off: by np.dot, and by the faster of that and `adaptode.products`."""
    by_dot, by_ours = (after - before for after, before in zip(_timed(product, dtype), _timed(product._replace(m=1, k=1, n=1), dtype), strict=True))
    return by_dot, min(by_dot, by_ours)


def _timed(product: Product, dtype: str) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    a = _factor(rng, product.m, product.k, product.left, dtype)
    b = _factor(rng, product.k, product.n, product.right, dtype)
    out, rowwise = np.zeros((product.m, product.n), dtype), np.ascontiguousarray(b)
    by_ours = _median(lambda: products.add_outer(a.T, rowwise, out) if product.left else products.product(a, rowwise, out))
    return _median(lambda: np.dot(a, b, out=out)), by_ours


def tanh_seconds(rows: int, columns: int, dtype: str) -> float:
    """The faster of NumPy's and `adaptode.activations`."""
    z = np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
    y, shift = np.empty_like(z), z[0].copy()
    return min(_median(lambda: np.tanh(z, out=y)), _median(lambda: activations.activate(activations.TANH, y, shift, shift[:0])))


def rows(workload: Workload, dtype: str, tolerance: float, threads: int) -> list[dict[str, Any]]:
    """The floor's seconds and operations of one forward solve and of one gradient, with the steps that adaptode takes; "least" with the faster products."""
    objective = workload.objective(dtype, tolerance)
    run = objective.solve(workload.params.astype(dtype), workload.data[0].astype(dtype))
    taken, found = run.steps, []
    for operation in ("forward", "gradient"):
        work = count(workload, run.nfev, taken.t.size, int(taken.accepted.sum()), run.coordinates is not None, operation == "gradient")
        timed = [(times, *product_seconds(product, dtype)) for product, times in work.products.items()]
        whole, least = (sum(row[0] * row[which] for row in timed) for which in (1, 2))
        tanh = sum(times * tanh_seconds(*shape, dtype) for shape, times in work.tanh.items())
        about = {"kind": "floor", "workload": workload.key, "tolerance": tolerance, "dtype": dtype, "threads": threads, "operation": operation}
        found.append(about | {"seconds": whole + tanh, "least": least + tanh, "products": whole, "tanh": tanh, "flops": work.flops})
    return found


def _factor(rng: np.random.Generator, rows: int, columns: int, transposed: bool, dtype: str) -> np.ndarray:
    shape = (columns, rows) if transposed else (rows, columns)
    values = rng.standard_normal(shape).astype(dtype)
    return values.T if transposed else values


def _median(case: Any) -> float:
    case()
    seconds: list[float] = []
    while len(seconds) < 5 or (len(seconds) < REPEATS and sum(seconds) < SECONDS):
        seconds.append(on_the_wall(case))
    return median(seconds)
