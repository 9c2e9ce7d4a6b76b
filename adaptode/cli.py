"""The command line, `adaptode` or `python -m adaptode`: `reproduce moons`, `reproduce mnist`, `info`, `warmup`.

Exit codes: 0 done; 1 the run failed, one line on stderr says why; 2 bad usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import AdaptodeError

SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that make OpenBLAS choose its kernels by name and not by the CPU: 1.3 to 1.9 times slower on the one machine where it was measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Bad usage raises SystemExit(2), as argparse does."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        command(**arguments)
    except AdaptodeError as error:
        print(f"adaptode: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("adaptode: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adaptode",
        description="Adaptive ODE solvers and regularized neural ODEs, without automatic differentiation.",
        epilog="exit codes: 0 done, 1 the run failed (one line on stderr says why), 2 bad usage, 130 interrupted",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "info", "versions, CPU, threads, where compiled code is kept", info)
    _add(commands, "warmup", "compile the kernels now, so that the first run does not wait", warmup)
    reproduce = commands.add_parser("reproduce", help="reproduce a paper's experiment: table, figures, report")
    experiments = reproduce.add_subparsers(title="experiments", required=True, metavar="EXPERIMENT")

    text = "Jacobian and local regularization on two moons (Josias & Brink 2022)"
    moons = _add(experiments, "moons", text, reproduce_moons)
    moons.add_argument("--seeds", type=_positive, default=None, help="trainings a row (default 5; with --quick 2)")
    text = "number of the first seed (default %(default)s); λ and the rest were chosen on seeds 0 to 7"
    moons.add_argument("--first-seed", type=_natural, default=0, metavar="SEED", help=text)
    moons.add_argument("--quick", action="store_true", help="a smaller run, within a minute on two cores")
    moons.add_argument("--sweep", action="store_true", help="also vary the weight of each penalty")
    _common(moons, "runs/moons")

    text = "local regularization on MNIST (Pal, Edelman, Rackauckas 2023)"
    mnist = _add(experiments, "mnist", text, reproduce_mnist)
    text = "digits: scikit-learn's 8x8, no download (default %(default)s)"
    mnist.add_argument("--data", choices=("mnist", "digits"), default="mnist", help=text)
    text = "folder that holds mnist/ (default $ADAPTODE_DATA, else download)"
    mnist.add_argument("--data-dir", type=Path, default=None, help=text)
    text = "training steps a row (default %(default)s; the paper: 7500)"
    mnist.add_argument("--steps", type=_positive, default=300, help=text)
    text = "float32 is the published setting (default %(default)s)"
    mnist.add_argument("--dtype", choices=("float64", "float32"), default="float64", help=text)
    text = "the penalty's weight at the start and end (published: 2.5 1.0)"
    mnist.add_argument("--weights", type=float, nargs=2, metavar=("START", "END"), default=None, help=text)
    mnist.add_argument("--seeds", type=_positive, default=1, help="trainings a row (default %(default)s)")
    _common(mnist, "runs/mnist")
    return parser


def _add(commands: Any, name: str, text: str, command: Callable[..., None]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def _common(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for the results (default %(default)s)")
    parser.add_argument("--jobs", type=_positive, default=None, help="processes at a time (default: one a core)")


def _natural(text: str, least: int = 0) -> int:
    value = int(text) if text.strip().isdecimal() else -1
    if value < least:
        raise argparse.ArgumentTypeError(f"a whole number of at least {least}, not {text!r}")
    return value


def _positive(text: str) -> int:
    return _natural(text, 1)


def reproduce_moons(seeds: int | None, first_seed: int, quick: bool, sweep: bool, out: Path, jobs: int | None) -> None:
    from .experiments import moons

    print(moons.run(out, quick=quick, seeds=seeds, first_seed=first_seed, sweep=sweep, n_jobs=jobs or -1))


def reproduce_mnist(
    data: str,
    data_dir: Path | None,
    steps: int,
    dtype: str,
    weights: list[float] | None,
    seeds: int,
    out: Path,
    jobs: int | None,
) -> None:
    from .experiments import mnist

    options = {"data": data, "data_dir": data_dir, "steps": steps, "dtype": dtype, "weights": weights, "seeds": seeds}
    print(mnist.run(out, n_jobs=jobs or -1, **options))


def warmup() -> None:
    """Compile the kernels and say how long it took."""
    from .experiments.jobs import warm_up, warm_up_solvers

    began = time.perf_counter()
    warm_up(wide=True)
    warm_up_solvers()
    print(f"compiled, or loaded from {_cache_folder()}, in {time.perf_counter() - began:.1f} s")


def info() -> None:
    """Print what a bug report needs."""
    from .experiments.report import versions

    lines = versions() | {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": _threads(),
        "compiled code": _cache_folder(),
        "data": os.environ.get("ADAPTODE_DATA", "ADAPTODE_DATA is not set: data sets are downloaded"),
    }
    width = max(map(len, lines))
    print("\n".join(f"{name:{width}}  {value}" for name, value in lines.items()))
    for name in SLOWING:
        if name in os.environ:
            print(
                f"warning: {name}={os.environ[name]} is exported, so OpenBLAS chooses its kernels by it and not by the processor. Where that was measured "
                f"it cost a factor of 1.3 to 1.9; here it may cost nothing. To compare: unset {name}"
            )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _threads() -> str:
    import numpy as np

    np.dot(np.ones((2, 2)), np.ones((2, 2)))  # the thread pools below exist once BLAS is loaded
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl comes with scikit-learn)"
    pools = [f"{p['internal_api']} {p['num_threads']} ({p.get('architecture', '')})" for p in threadpool_info()]
    return ", ".join(pools) or "no pool found"


def _cache_folder() -> str:
    return os.environ.get("NUMBA_CACHE_DIR") or str(Path(__file__).parent / "__pycache__") + " and its neighbours"
