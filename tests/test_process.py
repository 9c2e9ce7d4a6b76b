"""What only whole processes show: caches, interrupts, compiled code switched off, the same bits twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import adaptode
from adaptode import _jit

PACKAGE = Path(adaptode.__file__).parent
CACHE = Path(os.environ.get("NUMBA_CACHE_DIR") or PACKAGE)

# a solve and its gradient, printed to the last bit
SCRIPT = """
import json
import numpy as np
import adaptode as ao
field = ao.MLP((2, 5, 2), time="first")
theta = field.init(1)
y0 = np.random.default_rng(2).normal(size=(3, 2))
run = ao.solve(field, theta, y0, (0.0, 1.0), rtol=1e-5, atol=1e-6, method="Dopri5")
m = run.n_accepted
grad = ao.adjoint.discrete(run, np.cos(run.y1), error_bar=np.ones(m), stiffness_bar=np.ones(m))
numbers = [*run.y1.ravel(), *run.grid, *run.steps.error, *grad.y0.ravel(), *grad.theta]
print(json.dumps([float(x).hex() for x in numbers]))
"""

# a new user's field, named by the first argument
USER = """
import sys
import numba, numpy as np
import adaptode as ao
rate = float(sys.argv[1])
@numba.njit
def value(t, y, theta, out):
    for i in range(y.size):
        out[i] = -rate * y[i] + theta[0]
@numba.njit
def vjp(t, y, theta, w, y_bar, theta_bar):
    for i in range(y.size):
        y_bar[i] -= rate * w[i]
        theta_bar[0] += w[i]
field = ao.CompiledField(value, 2, 1, vjp=vjp)
run = ao.solve(field, [0.0], [[1.0, 2.0]], (0.0, 1.0), rtol=1e-9, atol=1e-9)
grad = ao.adjoint.discrete(run, np.ones((1, 2)))
assert np.allclose(run.y1, np.exp(-rate) * np.array([[1.0, 2.0]])), run.y1
assert np.allclose(grad.y0, np.exp(-rate)), grad
"""

FOREVER = """
import sys, threading
import numpy as np
import adaptode as ao
field = ao.MLP((2, 16, 2))
theta = field.init(0)
arguments = field, theta, np.ones((8, 2)), (0.0, 1e9)
ao.solve(*arguments, max_steps=50)
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
try:
    ao.solve(*arguments, max_steps=10**9, max_step=1e-3, keep="none")
except KeyboardInterrupt:
    print("interrupted", flush=True)
    run = ao.solve(field, theta, np.ones((8, 2)), (0.0, 1.0))
    sys.exit(7 if run.success else 8)
"""


def python(script, *arguments, root=PACKAGE.parent, **environment):
    env = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", script, *arguments], env=env, capture_output=True, text=True, timeout=300, cwd=root)


def said(done):
    """Its lines on stderr but for the one that announces a first compilation."""
    return [line for line in done.stderr.splitlines() if not line.startswith("adaptode: compiling, some seconds on the first run only")]


def numbers(done):
    assert done.returncode == 0, done.stderr
    return [float.fromhex(x) for x in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def compiled():
    return python("import warnings; warnings.simplefilter('error')\n" + SCRIPT, NUMBA_DISABLE_JIT="0")


def test_two_processes_give_the_same_bits(compiled):
    again = python(SCRIPT, NUMBA_DISABLE_JIT="0")
    assert numbers(again) == numbers(compiled) and len(numbers(again)) > 30
    assert said(compiled) == [] and said(again) == []


def test_without_the_compiler_the_numbers_are_the_same(compiled):
    found, expected = numbers(python(SCRIPT, NUMBA_DISABLE_JIT="1")), numbers(compiled)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)  # errors and what hangs on them: sums that cancel
    np.testing.assert_allclose(found[:6], expected[:6], rtol=1e-12)


def test_without_the_compiler_a_users_field_still_works():
    done = python(USER, "0.7", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr


def cached():
    return {path for path in CACHE.rglob("*.nb[ci]")}


RIGHT_HAND_SIDE = """
import sys
import numpy as np
import adaptode as ao
rate = float(sys.argv[1])
@ao.rhs
def decay(t, y, p, dy):
    dy[0] = -rate * p[0] * y[0]
run = ao.solve_ivp(decay, (0.0, 1.0), [1.0], "Tsit5", p=[2.0], t_eval=[0.5, 1.0], rtol=1e-9, atol=1e-12)
assert np.allclose(run.y[0], np.exp(-2.0 * rate * run.t)), run
"""


@pytest.mark.compiles
@pytest.mark.parametrize("script", [USER, RIGHT_HAND_SIDE], ids=["field", "right-hand side"])
def test_new_user_functions_leave_nothing_on_disk(script):
    """The loop that calls them is compiled once for all. Three tries: another process may be filling the cache meanwhile."""
    first = python(script, "0.25")
    assert first.returncode == 0, first.stderr
    grown = []
    for rate in ("0.5", "0.75", "1.25"):
        before = cached()
        done = python(script, rate)
        assert done.stderr == ""  # nothing is compiled but the function itself
        assert done.returncode == 0, done.stderr
        grown.append(cached() - before)
        if not grown[-1]:
            return
    pytest.fail(f"every new field left files: {grown}")


def test_the_first_compilation_says_so_once(tmp_path):
    code = "import numpy as np, adaptode.norms as n; one = np.ones(1); n.scaled_rms(one, one, one, one, one); n.rms_rows(np.ones((2, 1)), 0, 1)"
    first, second = (python(code, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="0") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert len(first.stderr.splitlines()) == 1 and not said(first) and str(tmp_path) in first.stderr
    assert second.stderr == ""


@pytest.mark.compiles
def test_a_place_without_any_cache_works_and_warns_once(tmp_path):
    """Read-only source, home and NUMBA_CACHE_DIR; as root nothing is read-only, so a plain file stands where each folder would be."""
    copy = tmp_path / "site" / "adaptode"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy, copy / "fields", copy / "adjoint"):
        (folder / "__pycache__").write_text("a file, not a folder")
    wall = tmp_path / "wall"
    wall.write_text("")
    script = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import numpy as np
    import adaptode as ao
    run = ao.solve(ao.PythonField(lambda t, y, theta: -y, 1), [], [[1.0]], (0.0, 1.0))
assert abs(run.y1[0, 0] - np.exp(-1)) < 1e-5
print(ao.__file__)
print([(w.category.__name__, str(w.message)) for w in seen])
"""
    blocked = str(wall / "below")
    done = python(script, root=copy.parent, NUMBA_CACHE_DIR=blocked, HOME=blocked, XDG_CACHE_HOME=blocked, NUMBA_DISABLE_JIT="0")
    assert done.returncode == 0, done.stderr
    where, seen = done.stdout.splitlines()
    assert where.startswith(str(copy))
    assert seen.count("RuntimeWarning") == 1 and seen.count("Warning") == 1
    assert "cannot keep compiled code on disk" in seen and "NUMBA_CACHE_DIR" in seen


@pytest.mark.compiles
def test_an_unusable_cache_folder_falls_back_to_another(compiled, tmp_path):
    """NUMBA_CACHE_DIR under a plain file: the cache beside the source serves, silently."""
    wall = tmp_path / "wall"
    wall.write_text("")
    done = python("import warnings; warnings.simplefilter('error')\n" + SCRIPT, NUMBA_CACHE_DIR=str(wall / "below"), NUMBA_DISABLE_JIT="0")
    assert numbers(done) == numbers(compiled)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("jit", ["0", "1"])
def test_ctrl_c_in_a_long_solve(jit):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OPENBLAS_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": jit}
    with subprocess.Popen([sys.executable, "-c", FOREVER], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - sent < 2.0
            assert process.wait(timeout=60) == 7, process.stderr.read()
        finally:
            process.kill()


def test_importing_compiles_nothing_and_loads_lazily():
    done = python(
        """
import sys
import adaptode
assert "numba" not in sys.modules and "scipy" not in sys.modules, "import adaptode must stay light"
for name in adaptode.__all__:
    getattr(adaptode, name)
import gc
from numba.core.dispatcher import Dispatcher
ours = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.py_func.__module__.startswith("adaptode")]
print(len(ours), sum(len(d.overloads) for d in ours))
""",
        NUMBA_DISABLE_JIT="0",
    )
    assert done.returncode == 0, done.stderr
    count, compiled = map(int, done.stdout.split())
    assert count > 20 and compiled == 0


# --- the key of the cache -----------------------------------------------------------------------------------------------------------


def test_the_stamp_follows_every_source_file_that_kernels_are_made_of(tmp_path, monkeypatch):
    for name in ("_jit.py", "step.py", "fields/mlp.py", "adjoint/discrete.py", "training/fit.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(_jit, "__file__", str(tmp_path / "_jit.py"))
    stamp = _jit._source_stamp()
    assert stamp == _jit._source_stamp()
    seen = {stamp}
    for name in ("_jit.py", "step.py", "fields/mlp.py", "adjoint/discrete.py"):
        (tmp_path / name).write_text("x = 12\n")
        seen.add(_jit._source_stamp())
        stat = (tmp_path / name).stat()
        os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))  # same size, later
        seen.add(_jit._source_stamp())
    assert len(seen) == 9
    (tmp_path / "new.py").write_text("")
    assert _jit._source_stamp() not in seen
    latest = _jit._source_stamp()
    (tmp_path / "training/fit.py").write_text("no kernels here\n")
    (tmp_path / "step.pyc").write_text("")
    assert _jit._source_stamp() == latest


@pytest.mark.skipif(_jit.JIT_DISABLED, reason="nothing is compiled")
def test_kernels_are_kept_under_that_stamp(monkeypatch):
    from adaptode.norms import rms_rows

    assert isinstance(rms_rows._cache, _jit._Cache)

    class Codegen:
        def magic_tuple(self):
            return ("here",)

    key = rms_rows._cache._index_key(("f8",), Codegen())
    assert key[-1] == _jit._Cache._stamp and "norms.py:" in key[-1]
    monkeypatch.setattr(_jit._Cache, "_stamp", "other")
    assert rms_rows._cache._index_key(("f8",), Codegen()) != key


@pytest.mark.skipif(_jit.JIT_DISABLED, reason="nothing is compiled")
@pytest.mark.skipif(_jit._Cache._impl_class is not _jit._OnDisk, reason="a Numba that is newer than what adaptode keeps bitcode apart for")
def test_code_from_disk_is_called_by_code_that_is_compiled_later(tmp_path):
    """Its bitcode is parsed then, and not before."""
    (tmp_path / "two_kernels.py").write_text(
        "from adaptode._jit import kernel\n"
        "@kernel\ndef inner(x):\n    return 2.0 * x + 1.0\n"
        "@kernel\ndef outer(x):\n    return 3.0 * inner(x)\n"
    )
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import two_kernels as two
def parsed():
    return [result.library._shared_module is not None for result in two.inner.overloads.values()]
found = [two.inner(2.0), parsed()]
if sys.argv[2] == "both":
    found += [two.outer(2.0), parsed()]
hits = [sum(kernel.stats.cache_hits.values()) for kernel in (two.inner, two.outer)]
print(found, hits)
"""
    runs = [python(script, str(tmp_path), which, NUMBA_CACHE_DIR=str(tmp_path / "cache")) for which in ("one", "both", "both")]
    assert [done.stdout.strip() for done in runs] == [
        "[5.0, [True]] [0, 0]",  # compiled here
        "[5.0, [False], 15.0, [True]] [1, 0]",
        "[5.0, [False], 15.0, [False]] [1, 1]",
    ], runs[1].stderr
