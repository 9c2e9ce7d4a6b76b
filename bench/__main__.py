"""`python -m bench solve` times solvers against SciPy and its peers, `train` neural ODEs and `penalties` Jacobian penalties against JAX and PyTorch,
`cold` new processes; `counts` counts evaluations, steps and operations; `detest` tells how honest tolerances are. Each writes report.md, result.jsonl and
its figures to a folder."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from importlib import import_module


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = whole.add_subparsers(dest="what", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what)
        added.add_argument("--out", default=f"runs/bench-{name}", help="folder of report.md, result.jsonl and the figures (default %(default)s)")
        return added

    train = command("train", "forward solve and gradient of neural ODEs, against diffrax, torchdiffeq and torchode")
    train.add_argument("--only", nargs="+", metavar="GROUP", help="of moons mnist spiral small reg")
    train.add_argument("--contenders", nargs="+", metavar="NAME", help="these contenders")
    train.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="numbers of threads (default 1 2)")
    train.add_argument("--dtypes", nargs="+", default=["float64", "float32"], metavar="DTYPE")
    train.add_argument("--budget", type=float, default=2.0, metavar="SECONDS", help="for each contender, workload and operation (default %(default)s)")
    train.add_argument("--quick", action="store_true", help="float64, one thread, one tolerance, little time for each, no memory")
    train.add_argument("--worker", help=argparse.SUPPRESS)
    solve = command("solve", "every solver at hand on six problems: a table and work–precision figures")
    solve.add_argument("--quick", action="store_true", help="two tolerances and little time for each")
    solve.add_argument("--only", nargs="+", metavar="PROBLEM", help="these problems")
    solve.add_argument("--contenders", nargs="+", metavar="NAME", help="these contenders or libraries")
    solve.add_argument("--no-ensemble", dest="ensemble", action="store_false", help="leave the ensembles out")
    penalties = command("penalties", "value and gradient of Jacobian penalties: by SVD, by JAX, by PyTorch")
    penalties.add_argument("--dims", nargs="+", type=int, default=[2, 32, 256], choices=[2, 32, 256], metavar="D")
    penalties.add_argument("--budget", type=float, default=10.0, help="seconds for each contender and penalty (default %(default)s)")
    cold = command("cold", "seconds from the import to the first gradient in a new process")
    cold.add_argument("--processes", type=int, default=9, metavar="N", help="of each kind (default %(default)s)")
    counts = command("counts", "evaluations, steps, operations and blocks of memory of each workload of `train`, against those stored")
    counts.add_argument("--write", action="store_true", help="store them anew")
    detest = command("detest", "DETEST's nonstiff problems: true error in units of the tolerance")
    detest.add_argument("--methods", nargs="+", default=["Tsit5", "Dopri5", "BS32", "DOP853"])
    return whole


def main() -> int:
    options = vars(parser().parse_args())
    what, worker = options.pop("what"), options.pop("worker", None)
    if what in ("solve", "penalties"):  # before a library with threads is imported; `train` and `cold` start processes of their own
        from .timing import pin_threads

        pin_threads()
    module = import_module(f".{what}", __package__)
    if worker:
        module.worker(json.loads(worker))
        return 0
    from adaptode.errors import InputError

    try:
        text = module.run(**options, command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]))
    except InputError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"{options['out']}/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
