"""What Taylor coefficients cost: value and gradient of one TayNODE node, mean (d^K y/dt^K)², in evaluations of the field with their pullback.

`python -m bench.taylor` prints the table; `rows()` returns it. K = 2 is also made of Jacobian products, without any series:

    d²y/dt² = J f,   with w its cotangent:   bilinear_vjp(u = f, w) + vjp(Jᵀ w)

which is an evaluation, a jvp, a bilinear form and two vjp. Where PyTorch imports, so are the Jacobian products of any K by automatic differentiation, nested:
d^K y/dt^K = jvp of d^(K−1) y/dt^(K−1) along f, then `autograd.grad`. Seconds are medians of calls taken turn and turn about, one thread.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import adaptode as ao

from .timing import Call, machine, turn_about

CASES = ((256, (2, 64, 64, 2)), (256, (32, 64, 64, 32)), (100, (784, 100, 784)))


def by_products(field: ao.Field, y: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """R_2's integrand and its gradient by Jacobian products; for a field that does not see the time."""
    f = field.value(0.0, y, theta)
    second = field.jvp(0.0, y, theta, f)
    w = 2.0 / second.size * second
    y_bar, theta_bar = field.bilinear_vjp(0.0, y, theta, f, w)
    back, _ = field.vjp(0.0, y, theta, w)
    y_more, theta_more = field.vjp(0.0, y, theta, back)
    return float(np.mean(second**2)), y_bar + y_more, theta_bar + theta_more


def by_series(penalty: ao.Taylor, field: ao.Field, y: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The same for any K as `adaptode.Taylor` has it."""
    values, pull, _ = penalty.pointwise(field, 0.0, y, theta, 0.5)
    return float(values.mean()), *pull(np.full(len(y), 1 / len(y)))


def nested(K: int, field: ao.MLP, y: np.ndarray, theta: np.ndarray) -> Call | None:
    """The same by PyTorch's nested forward mode under its reverse mode, ready to be called; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    parts = {name: torch.tensor(part, requires_grad=True) for name, part in field.views(theta).items()}
    at, layers = torch.tensor(y, requires_grad=True), len(field.sizes) - 1

    def f(x):
        for i in range(1, layers + 1):
            x = x @ parts[f"W{i}"] + parts[f"b{i}"]
            x = torch.tanh(x) if i < layers else x
        return x

    derivative = f
    for _ in range(K - 1):
        derivative = partial(lambda lower, x: torch.func.jvp(lower, (x,), (f(x),))[1], derivative)

    def call():
        value = (derivative(at) ** 2).mean()
        return value.item(), *(bar.numpy() for bar in torch.autograd.grad(value, [at, *parts.values()]))

    return call


def first_order(field: ao.Field, y: np.ndarray, theta: np.ndarray) -> None:
    """The unit: an evaluation and a vjp, which linearizes anew: three passes through the network and its transpose."""
    field.value(0.0, y, theta)
    field.vjp(0.0, y, theta, y)


def rows(repeats: int, activation: str = "tanh") -> list[dict[str, Any]]:
    """One row a network: milliseconds of each way."""
    table = []
    for batch, sizes in CASES:
        rng = np.random.default_rng(0)
        field, y = ao.MLP(sizes, activation=activation), rng.normal(size=(batch, sizes[0]))
        theta = field.init(rng)
        ours, theirs = by_series(ao.Taylor(2, 1.0), field, y, theta), by_products(field, y, theta)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
        cases: dict[str, Call] = {"f and vjp": partial(first_order, field, y, theta), "K=2, products": partial(by_products, field, y, theta)}
        cases |= {f"K={K}": partial(by_series, ao.Taylor(K, 1.0), field, y, theta) for K in (2, 3, 4, 5)}
        for K in (2, 3, 4, 5) if activation == "tanh" else ():
            peer = nested(K, field, y, theta)
            if peer is not None:
                value, y_bar, *bars = peer()
                ours = by_series(ao.Taylor(K, 1.0), field, y, theta)
                np.testing.assert_allclose(value, ours[0], rtol=1e-9)
                theirs = np.concatenate([y_bar.ravel(), *(bar.ravel() for bar in bars)])
                np.testing.assert_allclose(theirs, np.append(ours[1], ours[2]), rtol=1e-6, atol=1e-9 * np.abs(theirs).max())
                cases[f"K={K}, PyTorch"] = peer
        seconds = turn_about(list(cases.values()), repeats)
        table.append({"sizes": sizes, "batch": batch} | {name: 1e3 * median(s) for name, s in zip(cases, seconds, strict=True)})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--activation", default="tanh")
    arguments = parser.parse_args()
    print(f"{arguments.activation}, float64, milliseconds for value and gradient; in brackets in units of `f and vjp`; {machine()['cpu']}\n")
    table = rows(arguments.repeats, arguments.activation)
    names = [name for name in table[0] if name not in ("sizes", "batch")]
    print("| network | batch | " + " | ".join(names) + " |")
    print("|---|--:|" + "--:|" * len(names))
    for row in table:
        cells = [f"{row[name]:.3g} ({row[name] / row['f and vjp']:.1f})" for name in names]
        print(f"| {'-'.join(map(str, row['sizes']))} | {row['batch']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
