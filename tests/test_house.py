"""The rules that hold the project together: imports, references, sizes, lazy loading."""

import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "adaptode").rglob("*.py"))
LONGEST = 400  # lines a module may have


def cited_keys(source):
    """Keys of references.bib in the strings and comments of Python source: `[HNW93, II.4]`, `[KB15; LH19]`."""
    keys = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for bracket in re.findall(r"\[([^\[\]]*)\]", token.string):
                keys.update(re.findall(r"(?:^|[,;]\s*)([A-Z][A-Za-z]*\d\d[a-z]?)(?=$|[,;])", bracket))
    return keys


def known_keys():
    text = (ROOT / "adaptode" / "references.bib").read_text(encoding="utf-8")
    return re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)


def test_citations_are_found_where_they_are():
    source = '"""A rule [HNW93, II.4 (4.11)], and [KB15; LH19]."""\nx = y[K12]  # as in [Tsi11; P64]\n'
    assert cited_keys(source) == {"HNW93", "KB15", "LH19", "Tsi11", "P64"}


def test_every_citation_has_its_reference():
    known = known_keys()
    assert len(known) == len(set(known)), "a key stands twice in references.bib"
    missing = [
        (str(path), key) for path in MODULES for key in cited_keys(path.read_text(encoding="utf-8")) - set(known)
    ]
    assert missing == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_fits_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_imports_point_down():
    code = "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_is_light():
    """`import adaptode` loads none of the heavy libraries, hence compiles nothing."""
    heavy = ("numba", "llvmlite", "scipy", "sklearn", "matplotlib", "tqdm")
    code = f"import adaptode, json, sys; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_tool_settings_have_one_home():
    settings = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r"^\[(metadata|options)", settings, re.MULTILINE)
    assert not re.search(r"^\[tool\.(pytest|coverage|importlinter)", project, re.MULTILINE)
