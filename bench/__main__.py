"""`python -m bench train` times neural ODEs, `python -m bench solve` times solvers against SciPy and its peers."""

from __future__ import annotations

import argparse
import shlex
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    train = commands.add_parser("train", help="forward solve and gradient of neural ODEs")
    train.add_argument("--repeats", type=int, default=20)
    solve = commands.add_parser("solve", help="every solver at hand on six problems: a table and work–precision figures")
    solve.add_argument("--out", default="runs/bench-solve", help="folder of report.md, result.json and the figures (default %(default)s)")
    solve.add_argument("--quick", action="store_true", help="two tolerances and little time for each")
    solve.add_argument("--only", nargs="+", metavar="PROBLEM", help="these problems")
    solve.add_argument("--contenders", nargs="+", metavar="NAME", help="these contenders or libraries")
    solve.add_argument("--no-ensemble", action="store_true", help="leave the ensembles out")
    detest = commands.add_parser("detest", help="DETEST's nonstiff problems: true error in units of the tolerance")
    detest.add_argument("--methods", nargs="+", default=["Tsit5", "Dopri5", "BS32", "DOP853"])
    arguments = parser.parse_args()
    if arguments.what == "train":
        from .train import table

        print(table(arguments.repeats))
        return 0
    if arguments.what == "detest":
        from .detest import table as detest_table

        print(detest_table(arguments.methods))
        return 0
    from .timing import pin_threads

    pin_threads()  # before a library with threads is imported
    from adaptode.errors import InputError

    from .solve import run

    chosen = {"quick": arguments.quick, "only": arguments.only, "contenders": arguments.contenders, "ensemble": not arguments.no_ensemble}
    try:
        run(arguments.out, **chosen, command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]))
    except InputError as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
