"""What a new process waits for: the import, then the first solve of each kind, with the compiled code on disk.

`python -m bench.cold` starts processes one after the other and prints medians in seconds, each over what came before it in its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

PROCESSES = 9

IVP = """
import json, time
a = time.perf_counter()
import numpy as np, adaptode as ao
b = time.perf_counter()
run = ao.solve_ivp(lambda t, y: -y, (0.0, 1.0), [1.0], "Tsit5")
c = time.perf_counter()
run = ao.solve_ivp(lambda t, y: -2 * y, (0.0, 1.0), [1.0], "Tsit5")
print(json.dumps({"import adaptode": b - a, "first solve_ivp": c - b, "second": time.perf_counter() - c}))
"""

MOONS = """
import json, time
a = time.perf_counter()
import numpy as np, adaptode as ao
b = time.perf_counter()
field = ao.MLP((2, 64, 64, 2))
run = ao.solve(field, field.init(0), np.ones((256, 2)), (0.0, 1.0))
c = time.perf_counter()
ao.adjoint.discrete(run, run.y1)
print(json.dumps({"import adaptode": b - a, "first solve of an MLP": c - b, "its gradient": time.perf_counter() - c}))
"""


def times(script: str) -> dict[str, float]:
    """Medians over processes, after one that compiles."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    rows = []
    for _ in range(PROCESSES + 1):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median(row[name] for row in rows[1:]) for name in rows[0]}


def main() -> int:
    for name, script in (("a system of one equation", IVP), ("256 samples of a 2-64-64-2 network", MOONS)):
        print(name)
        for what, seconds in times(script).items():
            print(f"  {what:24} {seconds:.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
