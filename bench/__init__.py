"""Measurements, each started by hand: a command of `python -m bench` or a script of its own. Nothing here is imported by the package or gated in CI."""
