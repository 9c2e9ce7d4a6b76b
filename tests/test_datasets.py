"""IDX files in every state of damage; MNIST's loader on small stand-ins and, given ADAPTODE_DATA, the real files."""

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

from adaptode import datasets
from adaptode.datasets import load_digits, load_mnist, make_moons, read_idx, stratified_split
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
