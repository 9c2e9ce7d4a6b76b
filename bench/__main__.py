"""`python -m bench train` times neural ODEs, `python -m bench solve` times solvers against SciPy and its peers,
`python -m bench penalties` Jacobian penalties against SVDs, JAX and PyTorch."""

from __future__ import annotations

import argparse
import json
import shlex
import sys

KEPT = "folder of report.md, result.jsonl and the figures (default %(default)s)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    train = commands.add_parser("train", help="forward solve and gradient of neural ODEs, against diffrax, torchdiffeq and torchode")
    train.add_argument("--out", default="runs/bench-train", help=KEPT)
    train.add_argument("--only", nargs="+", metavar="GROUP", help="of moons mnist spiral small reg")
    train.add_argument("--contenders", nargs="+", metavar="NAME", help="these contenders")
    train.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="numbers of threads (default 1 2)")
    train.add_argument("--dtypes", nargs="+", default=["float64", "float32"], metavar="DTYPE")
    train.add_argument("--budget", type=float, default=2.0, metavar="SECONDS", help="for each contender, workload and operation (default %(default)s)")
    train.add_argument("--quick", action="store_true", help="float64, one thread, one tolerance, little time for each, no memory")
    train.add_argument("--worker", help=argparse.SUPPRESS)
    solve = commands.add_parser("solve", help="every solver at hand on six problems: a table and work–precision figures")
    solve.add_argument("--out", default="runs/bench-solve", help="folder of report.md, result.json and the figures (default %(default)s)")
    solve.add_argument("--quick", action="store_true", help="two tolerances and little time for each")
    solve.add_argument("--only", nargs="+", metavar="PROBLEM", help="these problems")
    solve.add_argument("--contenders", nargs="+", metavar="NAME", help="these contenders or libraries")
    solve.add_argument("--no-ensemble", action="store_true", help="leave the ensembles out")
    penalties = commands.add_parser("penalties", help="value and gradient of Jacobian penalties: by SVD, by JAX, by PyTorch")
    penalties.add_argument("--out", default="runs/bench-penalties", help="folder of report.md and result.json (default %(default)s)")
    penalties.add_argument("--dims", nargs="+", type=int, default=[2, 32, 256], choices=[2, 32, 256], metavar="D")
    penalties.add_argument("--budget", type=float, default=10.0, help="seconds for each contender and penalty (default %(default)s)")
    cold = commands.add_parser("cold", help="seconds from the import to the first gradient in a new process")
    cold.add_argument("--out", default="runs/bench-cold", help=KEPT)
    cold.add_argument("--processes", type=int, default=9, metavar="N", help="of each kind (default %(default)s)")
    detest = commands.add_parser("detest", help="DETEST's nonstiff problems: true error in units of the tolerance")
    detest.add_argument("--methods", nargs="+", default=["Tsit5", "Dopri5", "BS32", "DOP853"])
    arguments = parser.parse_args()
    if arguments.what == "train":
        from .train import run as run_train
        from .train import worker

        if arguments.worker:
            worker(json.loads(arguments.worker))
            return 0
        options = {key: value for key, value in vars(arguments).items() if key not in ("what", "worker")}
        print(run_train(**options, command=shlex.join(["python", "-m", "bench", *sys.argv[1:]])))
        return 0
    if arguments.what == "cold":
        from .cold import run as run_cold

        print(run_cold(arguments.out, processes=arguments.processes, command=shlex.join(["python", "-m", "bench", *sys.argv[1:]])))
        return 0
    if arguments.what == "detest":
        from .detest import table as detest_table

        print(detest_table(arguments.methods))
        return 0
    from .timing import pin_threads

    pin_threads()  # before a library with threads is imported
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    if arguments.what == "penalties":
        from .penalties import run as run_penalties

        print(run_penalties(arguments.out, arguments.dims, arguments.budget, command))
        return 0
    from adaptode.errors import InputError

    from .solve import run

    chosen = {"quick": arguments.quick, "only": arguments.only, "contenders": arguments.contenders, "ensemble": not arguments.no_ensemble}
    try:
        run(arguments.out, **chosen, command=command)
    except InputError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
