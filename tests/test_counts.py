"""What a gradient costs in counts, against what is stored: `python -m bench counts --write` stores them anew, and a change of them is one for the changelog."""

import json

import pytest

from bench.counts import STORED, count
from bench.workloads import WORKLOADS

ROWS = json.loads(STORED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['workload']}-{row['tolerance']:g}")
def test_the_counts_are_those_stored(row):
    assert count(WORKLOADS[row["workload"]], row["dtype"], row["tolerance"]) == row


def test_every_workload_is_counted():
    assert {row["workload"] for row in ROWS} == {key for key, workload in WORKLOADS.items() if not workload.penalty}
