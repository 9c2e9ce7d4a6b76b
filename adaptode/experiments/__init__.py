"""The papers' experiments: each trains its rows, measures them, and writes a report with figures and `result.json`."""
