"""`python -m bench train`: time the forward solve and the gradient of neural ODEs on this machine."""

from __future__ import annotations

import argparse

from . import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    print({"train": train.table}[arguments.what](arguments.repeats))


main()
