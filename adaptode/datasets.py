"""Data for the experiments: MNIST's IDX files [LeC98], scikit-learn's digits and moons.

Files are looked for where the caller or ADAPTODE_DATA says, a folder with one subfolder a data set; only when neither
says anything are they downloaded, once, into the user's cache. The uncompressed content must have the known SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import DataError, InputError

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# SHA-256 of the uncompressed content: the gzip wrappers in circulation differ, the content does not.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_LARGEST_DOWNLOAD = 20_000_000  # bytes; the largest of the four files has 9.9 million
_TIMEOUT = 60.0  # seconds without an answer


def read_idx(path: str | os.PathLike[str]) -> NDArray:
    """The array in an IDX file, gzipped or not.

    returns : array of the file's dtype (native byte order) and shape

    DataError : no such file, a damaged gzip stream, a header that is not IDX, not as many bytes as the header promises.
    """
    path = Path(path)
    return _parse_idx(_read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return _unpack(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _unpack(raw: bytes, name: str) -> bytes:
    """`raw` without its gzip wrapper, if it has one."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: damaged or truncated gzip stream ({error}); get the file again") from error


def _parse_idx(content: bytes, name: str) -> NDArray:
    # Header: 0, 0, type code, number of dimensions; each dimension as a big-endian uint32; then the data, row-major.
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES or content[3] == 0:
        raise DataError(f"{name}: not an IDX file (first bytes {content[:4].hex(' ') or 'missing'})")
    dtype, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(f"{name}: truncated inside its header ({len(content)} of {start} bytes)")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    expected = dtype.itemsize
    for size in shape:  # Python integers: a damaged header may promise more than int64 holds
        expected *= size
    if len(content) - start != expected:
        what = "truncated" if len(content) - start < expected else "longer than its header says"
        raise DataError(f"{name}: {what}: {len(content) - start} bytes of data, {expected} expected for shape {shape}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None, *, dtype: DTypeLike = np.float64
) -> tuple[NDArray, NDArray[np.int64], NDArray, NDArray[np.int64]]:
    """MNIST's handwritten digits [LeC98]: (X_train, y_train, X_test, y_test).

    data_dir : folder that has the subfolder mnist/ with the four IDX files; default $ADAPTODE_DATA; with neither, the
               files are downloaded (11 MB) into the user's cache folder and found there the next time
    X : (60000, 784) and (10000, 784) of `dtype`, grey levels divided by 255, in [0, 1]
    y : (60000,) and (10000,) int64, 0 to 9

    DataError : a file is missing, damaged or not MNIST's; no mirror could be reached.
    """
    data_dir = data_dir if data_dir is not None else os.environ.get("ADAPTODE_DATA") or None
    folder = Path(data_dir) / "mnist" if data_dir is not None else _cache_dir() / "mnist"
    content = {}
    for name, sha256 in _MNIST.items():
        path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
        if path is None:
            if data_dir is not None:
                raise DataError(
                    f"no {name}.gz in {folder}. Put MNIST's four files there ({', '.join(f'{file}.gz' for file in _MNIST)}; from {_MIRRORS[0]}); "
                    f"or give no folder, and they are downloaded. {_NO_FILES}"
                )
            path = _download(name, sha256, folder)
        content[name] = _parse_idx(_verified(_read(path), sha256, f"{path}", f". Delete it and get it again, from {_MIRRORS[0]}{name}.gz"), str(path))

    def images(name: str) -> NDArray:
        pixels = content[name]
        return pixels.reshape(len(pixels), -1).astype(dtype) / np.dtype(dtype).type(255)

    def labels(name: str) -> NDArray[np.int64]:
        return content[name].astype(np.int64)

    train_images, train_labels, test_images, test_labels = _MNIST
    return images(train_images), labels(train_labels), images(test_images), labels(test_labels)


_NO_FILES = "On the command line, `--data digits` needs no files."


def _verified(content: bytes, sha256: str, name: str, advice: str = "") -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{name} is damaged, or not MNIST's: the SHA-256 of its content begins with {found[:12]}, MNIST's with {sha256[:12]}{advice}")
    return content


def _cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(root) if root else Path.home() / ".cache") / "adaptode"


def _download(name: str, sha256: str, folder: Path) -> Path:
    """Fetch one file from the first mirror that has it whole; its name appears only when complete and verified."""
    reasons = []
    for mirror in _MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                raw = answer.read(_LARGEST_DOWNLOAD)
            _verified(_unpack(raw, url), sha256, url)
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(f"{url}: {error}")
            continue
        return _store(raw, folder / f"{name}.gz")
    raise DataError(
        f"could not download {name}.gz ({'; '.join(reasons)}). Is there a network? If you have MNIST's four files, "
        f"put them into a folder mnist/ and give the folder that holds it, as --data-dir or ADAPTODE_DATA. {_NO_FILES}"
    )


def _store(raw: bytes, path: Path) -> Path:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(
            f"downloaded {path.name} but cannot keep it in {path.parent}: {error.strerror or error}. "
            "Give a folder for caches that can be written, by XDG_CACHE_HOME"
        ) from error
    return path


def load_digits(*, dtype: DTypeLike = np.float64) -> tuple[NDArray, NDArray[np.int64]]:
    """scikit-learn's bundled 8 x 8 digits: X (1797, 64) of `dtype` in [0, 1], y (1797,) int64."""
    X, y = _sklearn_datasets().load_digits(return_X_y=True)
    return (X / 16.0).astype(dtype), y.astype(np.int64)


def make_moons(
    n_samples: int, *, noise: float = 0.1, rng: np.random.Generator | int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two intertwined half circles: X (n_samples, 2), y (n_samples,) of 0 and 1, shuffled.

    noise : standard deviation of the Gaussian noise added to each coordinate
    """
    if n_samples < 2 or not 0.0 <= noise < np.inf:
        raise InputError(f"moons need n_samples >= 2 and a finite noise >= 0, got {n_samples} and {noise}")
    seed = int(np.random.default_rng(rng).integers(2**31))  # scikit-learn takes no Generator
    X, y = _sklearn_datasets().make_moons(n_samples, noise=noise, random_state=seed)
    return X, y.astype(np.int64)


def stratified_split(
    X: ArrayLike, y: ArrayLike, *, test_size: float, rng: np.random.Generator | int | None = None
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """(X_train, y_train, X_test, y_test), each class split in the same proportion; same `rng`, same split."""
    from sklearn.model_selection import train_test_split

    seed = int(np.random.default_rng(rng).integers(2**31))
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=test_size, stratify=y, random_state=seed)
    return X_train, y_train, X_test, y_test


def _sklearn_datasets():
    try:
        import sklearn.datasets
    except ImportError as error:
        raise DataError("this data set comes with scikit-learn: pip install 'adaptode[ml]'") from error
    return sklearn.datasets
