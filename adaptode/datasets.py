"""Data for the experiments: MNIST's IDX files [LeC98], scikit-learn's digits and moons; series: the lynx and hares of Hudson Bay, a spiral.

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
from numbers import Integral, Real
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

# SHA-256 of the content with "\n" after every line: copies differ in how their lines end, and whether the last one does.
_HUDSON_BAY = ("hudson-bay-lynx-hare.csv", "b9d7bab8be18fe3b67e32e55e9888ad1847ff29dbc0de566070d0ff969adf14d")
_HUDSON_BAY_URL = (
    "https://raw.githubusercontent.com/stan-dev/example-models/3057930df98f3fe54ee32b1d6736a97ac0012ab6/knitr/lotka-volterra/hudson-bay-lynx-hare.csv"
)
_LARGEST_DOWNLOAD = 20_000_000  # bytes; the largest of MNIST's four files has 9.9 million
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
    folder, given = _folder(data_dir, "mnist")
    content = {}
    for name, sha256 in _MNIST.items():
        path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
        if path is None:
            if given:
                raise DataError(
                    f"no {name}.gz in {folder}. Put MNIST's four files there ({', '.join(f'{file}.gz' for file in _MNIST)}; from {_MIRRORS[0]}); "
                    f"or give no folder, and they are downloaded. {_NO_FILES}"
                )
            path = _download_mnist(name, sha256, folder)
        advice = f". Delete it and get it again, from {_MIRRORS[0]}{name}.gz"
        content[name] = _parse_idx(_verified(_read(path), sha256, f"{path}", "MNIST's", advice), str(path))

    def images(name: str) -> NDArray:
        pixels = content[name]
        return pixels.reshape(len(pixels), -1).astype(dtype) / np.dtype(dtype).type(255)

    def labels(name: str) -> NDArray[np.int64]:
        return content[name].astype(np.int64)

    train_images, train_labels, test_images, test_labels = _MNIST
    return images(train_images), labels(train_labels), images(test_images), labels(test_labels)


_NO_FILES = "On the command line, `--data digits` needs no files."


def _folder(data_dir: str | os.PathLike[str] | None, name: str) -> tuple[Path, bool]:
    """Where a data set is to be: in the folder that the caller or ADAPTODE_DATA gave (True), or in the user's cache."""
    root = data_dir if data_dir is not None else os.environ.get("ADAPTODE_DATA") or None
    return (_cache_dir() if root is None else Path(root)) / name, root is not None


def _verified(content: bytes, sha256: str, name: str, whose: str, advice: str = "") -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{name} is damaged, or not {whose}: the SHA-256 of its content begins with {found[:12]}, {whose} with {sha256[:12]}{advice}")
    return content


def _cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(root) if root else Path.home() / ".cache") / "adaptode"


def _answer(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        return answer.read(_LARGEST_DOWNLOAD)


def _download_mnist(name: str, sha256: str, folder: Path) -> Path:
    """Fetch one file from the first mirror that has it whole; its name appears only when complete and verified."""
    reasons = []
    for mirror in _MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            raw = _answer(url)
            _verified(_unpack(raw, url), sha256, url, "MNIST's")
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


def load_hudson_bay(data_dir: str | os.PathLike[str] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pelts of lynx and hare that the Hudson's Bay Company collected in 1900 to 1920 [How09]: (t, y).

    data_dir : folder that has the subfolder hudson_bay/ with hudson-bay-lynx-hare.csv; default $ADAPTODE_DATA; with neither, the file (0.5 kB) is
               downloaded into the user's cache folder and found there the next time
    t : (21,) years                                  y : (21, 2) thousands of pelts, lynx and hare

    DataError : the file is missing, damaged or another one; it could not be downloaded.
    """
    name, sha256 = _HUDSON_BAY
    folder, given = _folder(data_dir, "hudson_bay")
    path, where = folder / name, f"It is at {_HUDSON_BAY_URL}; the SHA-256 of its lines, each ended by a line feed, is {sha256}"
    if not path.is_file():
        if given:
            raise DataError(f"no {name} in {folder}. {where}. Put it there; or give no folder, and it is downloaded")
        try:
            raw = _answer(_HUDSON_BAY_URL)
            _verified(_lines(raw), sha256, _HUDSON_BAY_URL, "Hudson Bay's")
        except (OSError, http.client.HTTPException, DataError) as error:
            raise DataError(
                f"could not download {name} ({error}). Is there a network? {where}. Put it into a folder hudson_bay/ and give "
                "the folder that holds it, as data_dir or ADAPTODE_DATA"
            ) from error
        _store(raw, path)
    content = _verified(_lines(_read(path)), sha256, str(path), "Hudson Bay's", f". Delete it and get it again. {where}")
    rows = np.array([line.split(b",") for line in content.splitlines() if line[:1].isdigit()], dtype=np.float64)
    return rows[:, 0].copy(), rows[:, 1:].copy()


def _lines(content: bytes) -> bytes:
    """The content with a line feed after each of its lines."""
    return b"\n".join(content.splitlines()) + b"\n"


def make_spiral(
    n_times: int = 1000,
    *,
    t1: float = 25.0,
    y0: ArrayLike = (2.0, 0.0),
    noise: float = 0.0,
    rng: np.random.Generator | int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cubic spiral, y′ = (y³) A with A = [[−0.1, 2], [−2, −0.1]] and y³ by components [Chen18]: (t, y).

    n_times : equally spaced times, from 0 to t1 > 0                    y0 : (2,) where it starts, or (B, 2) for several series
    noise   : standard deviation of the Gaussian noise added to each entry, the starts included

    t : (n_times,)       y : (n_times, 2), or (n_times, B, 2); solved by DOP853 with tolerances 1e-10
    """
    if isinstance(n_times, bool) or not isinstance(n_times, Integral) or n_times < 2:
        raise InputError(f"a spiral needs n_times, a whole number of at least 2; got {n_times!r}")
    for name, value, right in (("t1", t1, lambda x: 0.0 < x < np.inf), ("noise", noise, lambda x: 0.0 <= x < np.inf)):
        if isinstance(value, bool) or not isinstance(value, Real) or not right(value):
            raise InputError(f"a spiral needs a finite t1 > 0 and a finite noise >= 0; got {name}={value!r}")
    starts = np.asarray(y0)
    if starts.dtype.kind not in "fiu" or starts.ndim not in (1, 2) or starts.shape[-1] != 2:
        raise InputError(f"a spiral starts at y0 (2,), or (B, 2) for several; got {y0!r}")
    from .fields import MLP  # compiles: only where it is needed
    from .solver import solve

    t = np.linspace(0.0, t1, int(n_times))
    theta = np.array([-0.1, 2.0, -2.0, -0.1, 0.0, 0.0])  # A and b = 0 of the field's one layer
    options = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-10, "max_steps": 1_000_000, "keep": "none"}
    run = solve(MLP((2, 2), preactivation="cube"), theta, starts.reshape(-1, 2).astype(np.float64), (0.0, float(t1)), saveat=t, **options)
    y = run.require_success().y
    if noise:
        y = y + noise * np.random.default_rng(rng).normal(size=y.shape)
    return t, y.reshape(t.size, *starts.shape)


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
