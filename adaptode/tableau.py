"""Explicit Runge-Kutta methods as arrays.

A tableau is data: (A, b, c), the error weights e, and the rows that complete a continuous extension which is exact at
both ends of the step. `print(tableau)` draws it. The tests prove each one by its order conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import published
from .errors import InputError

Array = NDArray[np.float64]

_ARRAYS = ("A", "b", "c", "e", "dense", "e_low", "extra_A", "extra_c")

# What a user's own tableau may miss its row sums by: rounding of printed 15-digit coefficients of size 10, not a typo.
_SLACK = 1e-12


class Coefficients(NamedTuple):
    """A tableau as a compiled kernel takes it: C-contiguous float64 arrays and scalars.

    With s stages and x extra ones, S = s + x: A (S, S) and c (S,) have the extra stages last; b, e (s,); e_low (s,), or
    (0,) without it; dense (m, S). pair_i = pair_j = -1 without a stiffness pair. The arrays are shared by all kernels
    and are writable only because compiled code tells read-only arrays apart; nobody writes to them.
    """

    A: Array
    b: Array
    c: Array
    e: Array
    e_low: Array
    dense: Array
    pair_i: int
    pair_j: int
    constant: float
    fsal: bool
    adaptive: bool
    error_order: int


@dataclass(frozen=True, eq=False)
class Tableau:
    """An explicit Runge-Kutta method with error weights and a continuous extension.

    Y_i = y0 + h sum_{j<i} a_ij K_j,   K_i = f(t0 + c_i h, Y_i)                                 [HNW93, II.1]
    y1  = y0 + h sum_i b_i K_i,        err = h sum_i e_i K_i,   e = b - bhat                    [HNW93, II.4]
    y(t0 + theta h) = y0 + h sum_i w_i(theta) K_i,   see `weights`

    A                  : (s, s) float64, strictly lower triangular
    b, c, e            : (s,) float64; e = b - bhat always (some libraries store bhat - b), 0 without an embedded method
    dense              : (m, s + x) float64, or (s,) for m = 1 and x = 0: the free rows of the continuous extension
    order, error_order : of b; of the estimate, that of bhat (0 without one): a controller's exponent is
                         -1 / (error_order + 1)
    fsal               : the last stage is f at (t1, y1), so it is the next step's first
    stiffness_pair     : zero-based stages (i, j), 0 < i < j, with equal c, or None; the estimate is
                         rms(K_j - K_i) / rms(Y_j - Y_i) / stiffness_constant                   [HW96, IV.2]
    stiffness_constant : length of the real stability interval of b, dimensionless
    dense_order        : order of the continuous extension, uniformly in theta
    e_low              : (s,) float64 of a second, lower-order embedded method, or empty. With q and q_low the scaled
                         norms of the two error vectors the estimate is q^2 / sqrt(q^2 + 0.01 q_low^2)  [HNW93, II.10]
    extra_A, extra_c   : (x, s + x), (x,) float64, or empty: stages that only the continuous extension needs, after the s

    The arrays are copied and read-only. InputError: shapes disagree, A is not strictly lower triangular, a row of A
    does not sum to its c, sum(b) is not 1, sum(e), sum(e_low) or the sum of a row of `dense` is not 0, `fsal` is
    claimed of a last row that is not b, or the stiffness pair has different c.
    """

    name: str
    A: Array
    b: Array
    c: Array
    e: Array
    dense: Array
    order: int
    error_order: int
    fsal: bool
    stiffness_pair: tuple[int, int] | None
    stiffness_constant: float
    dense_order: int
    citation: str
    e_low: Array = field(default_factory=lambda: np.empty(0))
    extra_A: Array = field(default_factory=lambda: np.empty(0))
    extra_c: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        for key in _ARRAYS:
            array = np.array(getattr(self, key), dtype=np.float64, order="C")
            if key == "dense":
                array = np.atleast_2d(array)
            elif key == "extra_A" and array.size == 0:
                array = np.empty((0, np.size(self.b)))
            array.flags.writeable = False
            object.__setattr__(self, key, array)
        s, x = self.b.size, self.extra_c.size
        if self.A.shape != (s, s) or any(getattr(self, key).shape != (s,) for key in ("b", "c", "e")):
            raise InputError(
                f"tableau {self.name}: A must be (s, s) and b, c, e (s,), with the same number of stages s"
            )
        if self.e_low.size and self.e_low.shape != (s,):
            raise InputError(f"tableau {self.name}: e_low must be (s,) as e is, with the same number of stages s = {s}")
        if self.dense.shape != (max(1, len(self.dense)), s + x) or self.extra_A.shape != (x, s + x):
            raise InputError(
                f"tableau {self.name}: with the same number of stages s = {s} and of extra stages x = {x}, dense must be "
                f"(m, s + x), extra_A (x, s + x) and extra_c (x,)"
            )
        A, c = self._all_stages
        if np.any(np.triu(A)):
            raise InputError(
                f"tableau {self.name}: A and extra_A must be strictly lower triangular (explicit methods only)"
            )
        for what, gap in (
            ("each row of A must sum to its c", np.max(np.abs(A.sum(axis=1) - c))),
            ("b must sum to 1", abs(self.b.sum() - 1.0)),
            ("e = b - bhat must sum to 0", abs(self.e.sum())),
            ("e_low = b - bhat must sum to 0", abs(self.e_low.sum())),
            (
                "each row of dense must sum to 0",
                np.max(np.abs(self.dense.sum(axis=1))) / max(1.0, np.max(np.abs(self.dense))),
            ),
        ):
            if not gap <= _SLACK:
                raise InputError(
                    f"tableau {self.name}: {what}; it misses by {gap:.3g}: look for a mistyped coefficient"
                )
        if self.fsal and not (np.array_equal(self.A[-1], self.b) and self.c[-1] == 1.0):
            raise InputError(f"tableau {self.name}: fsal needs a last row of A that equals b, and a last c of 1")
        if self.stiffness_pair is not None:
            i, j = self.stiffness_pair
            if not 0 < i < j < s or self.c[i] != self.c[j]:
                raise InputError(
                    f"tableau {self.name}: stages {i} and {j} cannot estimate stiffness; they need 0 < i < j and equal c"
                )

    def __reduce__(self) -> Any:
        # Through the constructor, so that a copy's arrays are read-only too.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def stages(self) -> int:
        """Number of stages s."""
        return self.b.size

    @property
    def extra_stages(self) -> int:
        """Number of stages x that only the continuous extension needs."""
        return self.extra_c.size

    @property
    def estimates(self) -> int:
        """Number of error vectors that the estimate is made of: 1, or 2 with `e_low`."""
        return 2 if self.e_low.size else 1

    @property
    def _all_stages(self) -> tuple[Array, Array]:
        """(S, S) A and (S,) c with the extra stages."""
        s, x = self.b.size, self.extra_c.size
        return np.vstack([np.hstack([self.A, np.zeros((s, x))]), self.extra_A]), np.concatenate([self.c, self.extra_c])

    @property
    def adaptive(self) -> bool:
        """Whether there is an embedded method, hence an error estimate."""
        return bool(np.any(self.e))

    def weights(self, theta: ArrayLike) -> Array:
        """Weights of the continuous extension at theta in [0, 1]: y(t0 + theta h) = y0 + h sum_i w_i(theta) K_i.

        w(theta) = theta^2 (3 - 2 theta) b + theta (theta - 1)^2 E_1 + theta^2 (theta - 1) E_s       [HNW93, II.6]
                   + theta^2 (theta - 1)^2 (D_0 + theta (D_1 + (1 - theta) (D_2 + theta (D_3 + (1 - theta) ...))))

        with E_i the unit vectors and D_k the rows of `dense`: the polynomial of degree m + 3 with w(0) = 0, w(1) = b,
        w'(0) = E_1, w'(1) = E_s. Both ends are exact in floating point; the expanded polynomials that are printed for
        the same extensions miss them (Tsit5's by 7e-15).

        theta : float or (...) float, dimensionless
        returns (s + x,) or (..., s + x) float64
        """
        theta = np.asarray(theta, dtype=np.float64)[..., np.newaxis]
        past, left, s = theta * theta, theta - 1.0, self.stages
        bump = past * left * left
        w = bump * self.dense[0]
        w[..., :s] += past * (3.0 - 2.0 * theta) * self.b
        for k, row in enumerate(self.dense[1:]):
            bump = bump * (-left if k % 2 else theta)
            w += bump * row
        w[..., 0] += (theta * left * left)[..., 0]
        w[..., s - 1] += (past * left)[..., 0]
        return w

    @property
    def P(self) -> Array:
        """The continuous extension's coefficients, (s + x, m + 3): w_i(theta) = sum_k P[i, k] theta^(k+1), as SciPy's."""
        s, m = self.stages, len(self.dense)
        P = np.zeros((s + self.extra_stages, m + 3))
        P[:s, 1:3] = np.outer(self.b, [3.0, -2.0])
        P[0, :3] += [1.0, -2.0, 1.0]
        P[s - 1, 1:3] += [-1.0, 1.0]
        bump = np.array([0.0, 1.0, -2.0, 1.0])  # theta^2 (theta - 1)^2, without its constant term
        for k, row in enumerate(self.dense):
            P[:, : bump.size] += np.outer(row, bump)
            bump = np.convolve(bump, [1.0, -1.0] if k % 2 else [0.0, 1.0])
        return P

    def slopes(self, theta: float) -> Array:
        """w'(theta), the derivative of `weights` in theta, (s + x,): y'(t0 + theta h) = sum_i w'_i(theta) K_i."""
        P = self.P
        return P @ (np.arange(1, P.shape[1] + 1) * float(theta) ** np.arange(P.shape[1]))

    @cached_property
    def _coefficients(self) -> Coefficients:
        i, j = self.stiffness_pair or (-1, -1)
        A, c = self._all_stages
        arrays = (np.array(a) for a in (A, self.b, c, self.e, self.e_low, self.dense))
        return Coefficients(*arrays, i, j, float(self.stiffness_constant), self.fsal, self.adaptive, self.error_order)

    def coefficients(self, dtype: Any = np.float64) -> Coefficients:
        """What a kernel working on states of `dtype` (float64, float32 or complex128) needs.

        The same float64 coefficients for all: float32 states are combined with full-precision weights and rounded
        once. The same object at every call.
        """
        if np.dtype(dtype) not in (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.complex128)):
            raise InputError(f"states must be float64, float32 or complex128, not {np.dtype(dtype)}")
        return self._coefficients

    def __str__(self) -> str:
        rows: list[list[Any]] = [[c, *row[:i]] for i, (c, row) in enumerate(zip(self.c, self.A, strict=True))]
        rows += [["b", *self.b]] + ([["e", *self.e]] if self.adaptive else [])
        rows += [["e_low", *self.e_low]] if self.e_low.size else []
        below, s = len(rows), self.stages
        rows += [[c, *row[: s + i]] for i, (c, row) in enumerate(zip(self.extra_c, self.extra_A, strict=True))]
        show = _formatter([x for row in rows for x in row if not isinstance(x, str)])
        cells = [[x if isinstance(x, str) else show(x) for x in row] for row in rows]
        columns = range(max(len(row) for row in cells))
        width = [max(len(row[k]) for row in cells if k < len(row)) for k in columns]
        right = ["  ".join(x.rjust(w) for x, w in zip(row[1:], width[1:], strict=False)) for row in cells]
        lines = [f"{row[0].rjust(width[0])} | {text}" for row, text in zip(cells, right, strict=True)]
        rule = "-" * (width[0] + 1) + "+" + "-" * (sum(width[1:]) + 2 * len(columns) - 3)
        if self.extra_stages:
            lines.insert(below, rule)
        lines.insert(s, rule)
        embedded = f"({self.error_order}{', of two estimates' if self.e_low.size else ''})" if self.adaptive else ""
        extra = f" and {self.extra_stages} for dense output" if self.extra_stages else ""
        fsal = ", FSAL" if self.fsal else ""
        title = f"{self.name}: order {self.order}{embedded}, {s} stages{extra}{fsal}  [{self.citation}]"
        return "\n".join([title, *(line.rstrip() for line in lines)])

    def __repr__(self) -> str:
        return f"<Tableau {self.name}>"


def _formatter(values: list[float]) -> Any:
    """Fractions when all values are short fractions, six digits when not: one style a table."""
    exact = {x: Fraction(x).limit_denominator(1_000_000) for x in values}
    if all(float(fraction) == x for x, fraction in exact.items()):
        return lambda x: str(exact[x])
    return lambda x: f"{x:.6g}"


def _method(
    name: str,
    *,
    rows: Sequence[str],
    b: str,
    bhat: str | None = None,
    c: str,
    e: str | None = None,
    bhat_low: str | None = None,
    extra_rows: Sequence[str] = (),
    extra_c: str = "",
    dense: Sequence[str] | None = None,
    order: int,
    error_order: int = 0,
    stiffness_pair: tuple[int, int] | None = None,
    stiffness_constant: float,
    dense_order: int,
    citation: str,
) -> Tableau:
    """A tableau from exact numbers ("1/3", "0.161"), each rounded once; rows are those of A below the first.

    Of the embedded method either its weights bhat or e = b - bhat is given, as it was published.
    """

    def read(text: str) -> list[Fraction]:
        return [Fraction(word) for word in text.split()]

    def minus(x: list[Fraction], y: list[Fraction]) -> Array:
        return np.array([float(p - q) for p, q in zip(x, y, strict=True)])

    def filled(lines: Sequence[str], columns: int) -> Array:
        out = np.zeros((len(lines), columns))
        for row, line in zip(out, lines, strict=True):
            numbers = [float(x) for x in read(line)]
            row[: len(numbers)] = numbers
        return out

    weights = read(b)
    s, x = len(weights), len(extra_rows)
    A = filled(["", *rows], s)
    return Tableau(
        name=name,
        A=A,
        b=np.array([float(w) for w in weights]),
        c=np.array([float(w) for w in read(c)]),
        e=minus(weights, weights if bhat is None else read(bhat)) if e is None else filled([e], s)[0],
        dense=filled(dense or [""], s + x),
        order=order,
        error_order=error_order,
        fsal=bool(np.array_equal(A[-1, :-1], [float(w) for w in weights[:-1]]) and weights[-1] == 0 and s > 1),
        stiffness_pair=stiffness_pair,
        stiffness_constant=stiffness_constant,
        dense_order=dense_order,
        citation=citation,
        e_low=np.empty(0) if bhat_low is None else minus(weights, read(bhat_low)),
        extra_A=filled(extra_rows, s + x),
        extra_c=np.array([float(w) for w in read(extra_c)]),
    )


TSIT5 = _method("Tsit5", **published.TSIT5)
DOPRI5 = _method("Dopri5", **published.DOPRI5)
DOPRI5_SHAMPINE = _method("Dopri5_Shampine", **published.DOPRI5_SHAMPINE)
BS32 = _method("BS32", **published.BS32)
DOP853 = _method("DOP853", **published.DOP853)
RK4 = _method("RK4", **published.RK4)
EULER = _method("Euler", **published.EULER)

METHODS: dict[str, Tableau] = {t.name: t for t in (TSIT5, DOPRI5, DOPRI5_SHAMPINE, BS32, DOP853, RK4, EULER)}

_ALIASES: dict[str, Tableau] = {name.lower(): tableau for name, tableau in METHODS.items()} | {
    "dopri5shampine": DOPRI5_SHAMPINE,
    "rk45": DOPRI5,
    "dp5": DOPRI5,
    "rk23": BS32,
    "bs3": BS32,
    "bosh3": BS32,
}


def get_tableau(method: str | Tableau | type) -> Tableau:
    """The method of that name (any case, SciPy's names too), the tableau itself, or that of a class such as adaptode.Tsit5. InputError: no such name."""
    if isinstance(method, type):
        method = getattr(method, "tableau", method)
    if isinstance(method, Tableau):
        return method
    tableau = _ALIASES.get(method.lower()) if isinstance(method, str) else None
    if tableau is None:
        raise InputError(
            f"unknown method {method!r}; choose one of {', '.join(METHODS)} (RK45 is Dopri5, RK23 is BS32), "
            "or pass a Tableau"
        )
    return tableau
