"""Measurements: each one runnable script that prints a table. Nothing here is imported by the package or gated in CI."""
