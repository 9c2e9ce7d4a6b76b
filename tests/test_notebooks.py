"""The notebooks run from top to bottom; each carries its own checks, and shows its pictures, which are drawn here and thrown away."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

pytestmark = pytest.mark.whole
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


def draw(*_, **__):
    """In the place of `plt.show`: every picture in full, so that a label that cannot be drawn is found, and no window."""
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, capsys, monkeypatch):
    monkeypatch.setattr(plt, "show", draw)
    runpy.run_path(str(path))
    assert capsys.readouterr().out
    assert not plt.get_fignums(), "a picture that is never shown"
