"""Makes reference_torchdiffeq.json. Needs torch and torchdiffeq, which nothing else here does; not run by the tests.

    pip install torch torchdiffeq scipy && python tests/make_reference_torchdiffeq.py

The right-hand sides are those of problems.py, called on the tensors' NumPy values: same arithmetic there and here.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from problems import PROBLEMS
from torchdiffeq import odeint

CASES = [
    ("lotka_volterra", "dopri5", 1e-3, 1e-3, [0.0, 10.0]),
    ("lotka_volterra", "dopri5", 1e-6, 1e-6, [0.0, 2.5, 5.0, 7.5, 10.0]),
    ("lotka_volterra", "dopri5", 1e-9, 1e-9, [0.0, 10.0]),
    ("lotka_volterra", "dopri5", 1e-6, 1e-9, [4.0, 0.0, -3.0]),
    ("oscillator", "dopri5", 1e-3, 1e-6, [0.0, 20.0]),
    ("oscillator", "dopri5", 1e-8, 1e-8, [1.0, 1.5, 20.0]),
    ("oscillator", "dopri5", 1e-5, 1e-5, [5.0, -3.0]),
    ("van_der_pol", "dopri5", 1e-4, 1e-4, [0.0, 20.0]),
    ("van_der_pol", "dopri5", 1e-7, 1e-7, [0.0, 10.0]),
    ("forced", "dopri5", 1e-5, 1e-7, [0.0, 1.0, 4.0]),
    ("forced", "dopri5", 1e-5, 1e-7, [2.0, -1.0]),
    ("mlp", "dopri5", 1e-3, 1e-3, [0.0, 1.0]),
    ("mlp", "dopri5", 1e-6, 1e-6, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ("mlp", "dopri5", 1.4e-8, 1.4e-8, [0.0, 1.0]),
    ("mlp", "dopri5", 1e-5, 1e-5, [1.0, 0.0]),
    ("mlp_time_first", "dopri5", 1e-6, 1e-6, [0.0, 2.0]),
    ("mlp_time_every", "dopri5", 1e-6, 1e-6, [0.0, 2.0]),
    ("lotka_volterra", "bosh3", 1e-4, 1e-4, [0.0, 10.0]),
    ("mlp", "bosh3", 1e-4, 1e-4, [0.0, 1.0]),
]


class Field(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f, self.nfe, self.accepted, self.rejected = f, 0, [], []

    def forward(self, t, y):
        self.nfe += 1
        return torch.from_numpy(np.ascontiguousarray(self.f(t.item(), y.numpy())))

    def callback_accept_step(self, t0, y0, dt):
        self.accepted.append(dt.item())

    def callback_reject_step(self, t0, y0, dt):
        self.rejected.append(dt.item())


def solve(name, method, rtol, atol, times):
    problem = PROBLEMS[name]
    field = Field(problem.f)
    with torch.no_grad():
        y = odeint(
            field,
            torch.from_numpy(problem.y0),
            torch.tensor(times, dtype=torch.float64),
            rtol=rtol,
            atol=atol,
            method=method,
        )
    assert field.nfe == 2 + (6 if method == "dopri5" else 3) * (len(field.accepted) + len(field.rejected))
    return {
        "problem": name, "method": method, "rtol": rtol, "atol": atol, "t": times,
        "nfe": field.nfe, "accepted": field.accepted, "rejected": field.rejected, "y": y.numpy().tolist(),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "torchdiffeq", "numpy", "scipy")} | {
        "python": platform.python_version()
    }
    cases = [solve(*case) for case in CASES]
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = json.dumps({"made_by": "tests/make_reference_torchdiffeq.py", "versions": versions})[:-1]
    Path(__file__).with_name("reference_torchdiffeq.json").write_text(
        f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8"
    )
    for case in cases:
        print(case["problem"], case["method"], case["rtol"], case["t"], case["nfe"], len(case["rejected"]))
