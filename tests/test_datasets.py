"""IDX files in every state of damage; MNIST's loader on small stand-ins and, given ADAPTODE_DATA, the real files; the series of Hudson Bay, the spiral."""

import gzip
import hashlib
import io
import os
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import solve_ivp

from adaptode import datasets
from adaptode.datasets import load_digits, load_hudson_bay, load_mnist, make_moons, make_spiral, read_idx, stratified_split
from adaptode.errors import DataError, InputError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """The bytes of an IDX file, written from the format's description."""
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(max_dims=4, max_side=5, min_side=0),
    ),
    st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / "data"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    back = read_idx(path)
    assert back.dtype == array.dtype and back.dtype.isnative and back.flags.writeable
    assert back.tobytes() == array.tobytes() and back.shape == array.shape


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (b"PK\3\4" + GOOD[4:], "not an IDX file"),
        (b"PK" + GOOD[2:], "not an IDX file"),
        (b"\0\1" + GOOD[2:], "not an IDX file"),
        (b"\0\0\x07" + GOOD[3:], "not an IDX file"),  # no such type code
        (b"\0\0\x08\0", "not an IDX file"),  # no dimension
        (GOOD[:10], "truncated inside its header"),
        (GOOD[:-1], "truncated: 23 bytes"),
        (GOOD + b"\0", "longer than its header says"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "truncated: 24 bytes"),  # a shape whose product is beyond int64
        (gzip.compress(GOOD)[:-9], "damaged or truncated gzip"),
        (gzip.compress(GOOD)[:-8] + b"\0" * 8, "damaged or truncated gzip"),  # wrong checksum
        (gzip.compress(GOOD)[:10] + b"\xff" * 20, "damaged or truncated gzip"),
    ],
)
def test_damage_is_named(tmp_path, content, says):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nothing.gz")
    with pytest.raises(DataError, match="cannot read"):
        read_idx(tmp_path)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder of four small files in MNIST's format, whose hashes stand in for MNIST's."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    arrays, known = {}, {}
    for name in datasets._MNIST:
        n = 12 if name.startswith("train") else 5
        shape, high = ((n, 28, 28), 256) if "images" in name else (n, 10)
        arrays[name] = rng.integers(0, high, shape, np.uint8)
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(arrays[name])))
        known[name] = hashlib.sha256(idx(arrays[name])).hexdigest()
    monkeypatch.setattr(datasets, "_MNIST", known)
    return folder.parent, arrays


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mnist_from_a_folder(small_mnist, monkeypatch, dtype):
    folder, arrays = small_mnist
    X, y, X_test, y_test = load_mnist(folder, dtype=dtype)
    assert X.shape == (12, 784) and X_test.shape == (5, 784) and X.dtype == X_test.dtype == dtype
    assert np.array_equal(X, arrays["train-images-idx3-ubyte"].reshape(12, 784).astype(dtype) / dtype(255))
    assert X.min() >= 0 and X.max() <= 1
    assert y.dtype == y_test.dtype == np.int64
    assert np.array_equal(y, arrays["train-labels-idx1-ubyte"])
    assert np.array_equal(y_test, arrays["t10k-labels-idx1-ubyte"])
    monkeypatch.setenv("ADAPTODE_DATA", str(folder))
    assert np.array_equal(load_mnist(dtype=dtype)[0], X)
    plain = folder / "mnist" / "t10k-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress(plain.with_suffix(".gz").read_bytes()))
    plain.with_suffix(".gz").unlink()
    assert np.array_equal(load_mnist(folder)[3], y_test)


def test_mnist_missing_or_damaged(small_mnist, tmp_path):
    folder, _ = small_mnist
    with pytest.raises(DataError, match="no train-images-idx3-ubyte.gz in .*elsewhere/mnist. Put MNIST's four files there .*; or give no folder"):
        load_mnist(tmp_path / "elsewhere")
    labels = folder / "mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(12, np.uint8))))
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz is damaged, or not MNIST's: .* Delete it and get it again, from http.*/train-labels.*gz$"):
        load_mnist(folder)
    labels.unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte.gz in"):
        load_mnist(folder)


def test_mnist_download(small_mnist, tmp_path, monkeypatch):
    folder, _ = small_mnist
    expected = load_mnist(folder)
    monkeypatch.delenv("ADAPTODE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        name = url.rsplit("/", 1)[1]
        if url.startswith(datasets._MIRRORS[0]):  # the first mirror: gone, or half a file
            if "labels" in name:
                raise urllib.error.HTTPError(url, 404, "Not Found", {}, None)
            return io.BytesIO((folder / "mnist" / name).read_bytes()[:100])
        return io.BytesIO((folder / "mnist" / name).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    for found, wanted in zip(load_mnist(), expected, strict=True):
        assert np.array_equal(found, wanted)
    assert len(asked) == 8
    load_mnist()
    assert len(asked) == 8  # found in the cache
    kept = {path.name for path in (tmp_path / "cache/adaptode/mnist").iterdir()}
    assert kept == {f"{name}.gz" for name in datasets._MNIST}


def test_mnist_no_network(tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTODE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def urlopen(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DataError, match="could not download.*no route to host.*Is there a network.*--data-dir or ADAPTODE_DATA"):
        load_mnist()
    assert not (tmp_path / "adaptode").exists()


def test_download_that_cannot_be_kept(small_mnist, tmp_path, monkeypatch):
    folder, _ = small_mnist
    monkeypatch.delenv("ADAPTODE_DATA", raising=False)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url, timeout: (folder / "mnist" / url.rsplit("/", 1)[1]).open("rb")
    )
    with pytest.raises(DataError, match="cannot keep it in .*: Not a directory.* by XDG_CACHE_HOME$"):
        load_mnist()


@pytest.mark.skipif(not os.environ.get("ADAPTODE_DATA"), reason="ADAPTODE_DATA is not set: no real MNIST files to read")
def test_real_mnist():
    X, y, X_test, y_test = load_mnist(dtype=np.float32)
    assert X.shape == (60000, 784) and X_test.shape == (10000, 784)
    assert np.bincount(y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(float(X.mean(dtype=np.float64)) - 0.1307) < 1e-4


PELTS = b"# from somewhere\nYear, Lynx, Hare\n1900, 4.0, 30.0\n1901, 6.1, 47.2\n"


@pytest.fixture
def pelts(tmp_path, monkeypatch):
    """A folder with a small table of pelts, whose hash stands in for that of Hudson Bay's."""
    monkeypatch.setattr(datasets, "_HUDSON_BAY", ("hudson-bay-lynx-hare.csv", hashlib.sha256(PELTS).hexdigest()))
    path = tmp_path / "data" / "hudson_bay" / "hudson-bay-lynx-hare.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(PELTS)
    return path


@pytest.mark.parametrize("content", [PELTS, PELTS[:-1], PELTS.replace(b"\n", b"\r\n")])
def test_hudson_bay_from_a_folder(pelts, monkeypatch, content):
    pelts.write_bytes(content)
    t, y = load_hudson_bay(pelts.parent.parent)
    assert t.tolist() == [1900.0, 1901.0] and y.tolist() == [[4.0, 30.0], [6.1, 47.2]]
    assert t.flags.c_contiguous and y.flags.c_contiguous and y.dtype == np.float64
    monkeypatch.setenv("ADAPTODE_DATA", str(pelts.parent.parent))
    assert np.array_equal(load_hudson_bay()[1], y)


def test_hudson_bay_missing_or_damaged(pelts, tmp_path):
    sha256 = hashlib.sha256(PELTS).hexdigest()
    with pytest.raises(DataError, match=f"no hudson-bay-lynx-hare.csv in .*hudson_bay. It is at https://.*{sha256}. Put it there; or give no folder"):
        load_hudson_bay(tmp_path)
    pelts.write_bytes(PELTS.replace(b"47.2", b"47.3"))
    with pytest.raises(DataError, match=f"csv is damaged, or not Hudson Bay's: .* Delete it and get it again. It is at https.*{sha256}$"):
        load_hudson_bay(pelts.parent.parent)


def test_hudson_bay_download(pelts, tmp_path, monkeypatch):
    monkeypatch.delenv("ADAPTODE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    answer = b"<html>not here</html>"
    with pytest.raises(DataError, match="could not download .*not Hudson Bay's.*Is there a network.* as data_dir or ADAPTODE_DATA$"):
        load_hudson_bay()
    assert not (tmp_path / "cache").exists()
    answer = PELTS[:-1]
    for _ in range(2):
        assert load_hudson_bay()[1].tolist() == [[4.0, 30.0], [6.1, 47.2]]
    assert asked == 2 * [datasets._HUDSON_BAY_URL]  # the second time it was found in the cache


@pytest.mark.skipif(not os.environ.get("ADAPTODE_DATA"), reason="ADAPTODE_DATA is not set: no table of pelts to read")
def test_real_hudson_bay():
    t, y = load_hudson_bay()
    assert np.array_equal(t, np.arange(1900.0, 1921.0)) and y.shape == (21, 2)
    assert y[0].tolist() == [4.0, 30.0] and y[-1].tolist() == [8.6, 24.7] and t[y.argmax(axis=0)].tolist() == [1904.0, 1903.0]


def test_spiral():
    """SciPy's solution of the equation as it is written."""
    A = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    t, y = make_spiral(50, t1=10.0, y0=[[2.0, 0.0], [0.5, -1.0]])
    assert np.array_equal(t, np.linspace(0.0, 10.0, 50)) and y.shape == (50, 2, 2)
    for i in range(2):
        sol = solve_ivp(lambda t, u: u**3 @ A, (0.0, 10.0), y[0, i], t_eval=t, method="DOP853", rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(y[:, i], sol.y.T, atol=1e-7)
    alone = make_spiral(50, t1=10.0)[1]
    assert alone.shape == (50, 2)
    np.testing.assert_allclose(alone, y[:, 0], atol=1e-8)
    assert make_spiral()[1].shape == (1000, 2)


def test_spiral_with_noise():
    clean = make_spiral(400)[1]
    noisy, again, other = (make_spiral(400, noise=0.1, rng=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(noisy, again) and not np.array_equal(noisy, other)
    assert np.std(noisy - clean) == pytest.approx(0.1, rel=0.1)
    for bad in ({"n_times": 1}, {"n_times": 2.5}, {"t1": 0.0}, {"t1": np.inf}, {"t1": "late"}, {"noise": -1.0}, {"noise": np.nan}):
        with pytest.raises(InputError, match="a spiral needs"):
            make_spiral(**bad)
    for y0 in (2.0, [1.0, 2.0, 3.0], [[[1.0, 2.0]]], "start"):
        with pytest.raises(InputError, match="a spiral starts at y0"):
            make_spiral(y0=y0)


def test_digits():
    X, y = load_digits()
    assert X.shape == (1797, 64) and y.shape == (1797,) and X.min() == 0.0 and X.max() == 1.0
    assert set(y.tolist()) == set(range(10))


def test_moons():
    X, y = make_moons(200, noise=0.0, rng=3)
    assert X.shape == (200, 2) and np.bincount(y).tolist() == [100, 100]
    upper, lower = X[y == 0], X[y == 1] - [1.0, 0.5]
    np.testing.assert_allclose(np.hypot(*upper.T), 1.0)
    np.testing.assert_allclose(np.hypot(*lower.T), 1.0)
    again, _ = make_moons(200, noise=0.0, rng=3)
    other, _ = make_moons(200, noise=0.0, rng=4)
    assert np.array_equal(X, again) and not np.array_equal(X, other)
    for bad in ({"n_samples": 1}, {"n_samples": 10, "noise": -1.0}, {"n_samples": 10, "noise": np.nan}):
        with pytest.raises(InputError):
            make_moons(**bad)


def test_split_is_stratified_and_repeatable():
    X, y = load_digits()
    X_train, y_train, X_test, y_test = stratified_split(X, y, test_size=0.2, rng=0)
    assert len(X_train) + len(X_test) == len(X) and len(y_test) == len(X_test)
    np.testing.assert_allclose(np.bincount(y_test) / np.bincount(y), 0.2, atol=0.01)
    assert np.array_equal(X_test, stratified_split(X, y, test_size=0.2, rng=0)[2])


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    for load in (load_digits, lambda: make_moons(10)):
        with pytest.raises(DataError, match="pip install"):
            load()
