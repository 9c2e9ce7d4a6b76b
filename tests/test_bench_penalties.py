"""The contenders of `bench penalties` compute the same thing, and the report says so."""

from __future__ import annotations

import numpy as np
import pytest

from bench import record
from bench.penalties import PENALTIES, Case, _error, _polished, run


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_fast_route_and_the_svds_agree_with_the_reference(penalty):
    case = Case(2, penalty)
    reference = case.reference()
    assert _error(case.ours(), reference) < 1e-12
    if penalty != "frobenius":
        assert _error(case.by_svd(), reference) < 1e-12


def test_polished_triplets_satisfy_their_equations_beyond_double_precision():
    J = np.random.default_rng(0).normal(size=(3, 6, 6))
    for k in (0, -1):
        u, s, v = _polished(J, *np.linalg.svd(J), k)
        assert u.dtype == np.longdouble
        exact = J.astype(np.longdouble)
        worst = max(np.abs(np.einsum("bij,bj->bi", exact, v) - s[:, None] * u).max(), np.abs(np.einsum("bij,bi->bj", exact, u) - s[:, None] * v).max())
        assert worst < 20 * np.finfo(np.longdouble).eps


def test_the_report(tmp_path):
    report = run(str(tmp_path), dims=[2], budget=0.01, command="python -m bench penalties")
    head, rows = record.read(tmp_path)
    assert head["config"] == {"dims": [2], "budget": 0.01} and [row["penalty"] for row in rows if row["contender"] == "adaptode"] == list(PENALTIES)
    assert "κ(J)" in report and (tmp_path / "penalties.png").exists() and (tmp_path / "report.md").read_text(encoding="utf-8") == report
