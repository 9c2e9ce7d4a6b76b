"""Explicit Runge-Kutta methods as arrays.

A tableau is data: (A, b, c), the error weights e, and one quartic row p4 that completes a continuous extension which is
exact at both ends of the step. `print(tableau)` draws it. The tests prove each one by its order conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

Array = NDArray[np.float64]

# What a user's own tableau may miss its row sums by: rounding of printed 15-digit coefficients of size 10, not a typo.
_SLACK = 1e-12


class Coefficients(NamedTuple):
    """A tableau as a compiled kernel takes it: C-contiguous float64 arrays and scalars.

    A (s, s), b, c, e, p4 (s,); pair_i = pair_j = -1 without a stiffness pair. The arrays are shared by all kernels and
    are writable only because compiled code tells read-only arrays apart; nobody writes to them.
    """

    A: Array
    b: Array
    c: Array
    e: Array
    p4: Array
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
    b, c, e, p4        : (s,) float64; e = b - bhat always (some libraries store bhat - b), 0 without an embedded method
    order, error_order : of b; of bhat (0 without one): a controller's exponent is -1 / (error_order + 1)
    fsal               : the last stage is f at (t1, y1), so it is the next step's first
    stiffness_pair     : zero-based stages (i, j), 0 < i < j, with equal c, or None; the estimate is
                         rms(K_j - K_i) / rms(Y_j - Y_i) / stiffness_constant                   [HW96, IV.2]
    stiffness_constant : length of the real stability interval of b, dimensionless
    dense_order        : order of the continuous extension, uniformly in theta

    The arrays are copied and read-only. InputError: shapes disagree, A is not strictly lower triangular, a row of A
    does not sum to its c, sum(b) is not 1, sum(e) is not 0, `fsal` is claimed of a last row that is not b, or the
    stiffness pair has different c.
    """

    name: str
    A: Array
    b: Array
    c: Array
    e: Array
    p4: Array
    order: int
    error_order: int
    fsal: bool
    stiffness_pair: tuple[int, int] | None
    stiffness_constant: float
    dense_order: int
    citation: str

    def __post_init__(self) -> None:
        for key in ("A", "b", "c", "e", "p4"):
            array = np.array(getattr(self, key), dtype=np.float64, order="C")
            array.flags.writeable = False
            object.__setattr__(self, key, array)
        s = self.b.size
        if self.A.shape != (s, s) or any(getattr(self, key).shape != (s,) for key in ("b", "c", "e", "p4")):
            raise InputError(
                f"tableau {self.name}: A must be (s, s) and b, c, e, p4 (s,), with the same number of stages s"
            )
        if np.any(np.triu(self.A)):
            raise InputError(f"tableau {self.name}: A must be strictly lower triangular (explicit methods only)")
        for what, gap in (
            ("each row of A must sum to its c", np.max(np.abs(self.A.sum(axis=1) - self.c))),
            ("b must sum to 1", abs(self.b.sum() - 1.0)),
            ("e = b - bhat must sum to 0", abs(self.e.sum())),
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
    def adaptive(self) -> bool:
        """Whether there is an embedded method, hence an error estimate."""
        return bool(np.any(self.e))

    def weights(self, theta: ArrayLike) -> Array:
        """Weights of the continuous extension at theta in [0, 1]: y(t0 + theta h) = y0 + h sum_i w_i(theta) K_i.

        w(theta) = theta^2 (3 - 2 theta) b + theta^2 (theta - 1)^2 p4
                   + theta (theta - 1)^2 E_1 + theta^2 (theta - 1) E_s                          [HNW93, II.6]

        with E_i the unit vectors: the quartic with w(0) = 0, w(1) = b, w'(0) = E_1, w'(1) = E_s. Both ends are exact in
        floating point; the expanded polynomials that are printed for the same extensions miss them (Tsit5's by 7e-15).

        theta : float or (...) float, dimensionless
        returns (s,) or (..., s) float64
        """
        theta = np.asarray(theta, dtype=np.float64)[..., np.newaxis]
        past, left = theta * theta, theta - 1.0
        w = past * (3.0 - 2.0 * theta) * self.b + past * left * left * self.p4
        w[..., 0] += (theta * left * left)[..., 0]
        w[..., -1] += (past * left)[..., 0]
        return w

    @property
    def P(self) -> Array:
        """The continuous extension's coefficients, (s, 4): w_i(theta) = sum_k P[i, k] theta^(k+1), as SciPy's `P`."""
        P = np.outer(self.b, [0.0, 3.0, -2.0, 0.0]) + np.outer(self.p4, [0.0, 1.0, -2.0, 1.0])
        P[0] += [1.0, -2.0, 1.0, 0.0]
        P[-1] += [0.0, -1.0, 1.0, 0.0]
        return P

    @cached_property
    def _coefficients(self) -> Coefficients:
        i, j = self.stiffness_pair or (-1, -1)
        arrays = (np.array(a) for a in (self.A, self.b, self.c, self.e, self.p4))
        return Coefficients(*arrays, i, j, float(self.stiffness_constant), self.fsal, self.adaptive, self.error_order)

    def coefficients(self, dtype: Any = np.float64) -> Coefficients:
        """What a kernel working on states of `dtype` (float64 or float32) needs.

        The same float64 coefficients for both: float32 states are combined with full-precision weights and rounded
        once. The same object at every call.
        """
        if np.dtype(dtype) not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise InputError(f"states must be float64 or float32, not {np.dtype(dtype)}")
        return self._coefficients

    def __str__(self) -> str:
        rows = [[c, *row[:i]] for i, (c, row) in enumerate(zip(self.c, self.A, strict=True))]
        below = [["b", *self.b]] + ([["e", *self.e]] if self.adaptive else [])
        show = _formatter([x for row in rows + below for x in row if not isinstance(x, str)])
        cells = [[x if isinstance(x, str) else show(x) for x in row] for row in rows + below]
        columns = range(self.stages + 1)
        width = [max(len(row[k]) for row in cells if k < len(row)) for k in columns]
        right = ["  ".join(x.rjust(w) for x, w in zip(row[1:], width[1:], strict=False)) for row in cells]
        lines = [f"{row[0].rjust(width[0])} | {text}" for row, text in zip(cells, right, strict=True)]
        lines.insert(self.stages, "-" * (width[0] + 1) + "+" + "-" * (sum(width[1:]) + 2 * self.stages - 1))
        embedded = f"({self.error_order})" if self.adaptive else ""
        fsal = ", FSAL" if self.fsal else ""
        title = f"{self.name}: order {self.order}{embedded}, {self.stages} stages{fsal}  [{self.citation}]"
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
    rows: Sequence[str],
    b: str,
    bhat: str | None = None,
    *,
    c: str,
    p4: str | None = None,
    order: int,
    error_order: int = 0,
    stiffness_pair: tuple[int, int] | None = None,
    stiffness_constant: float,
    dense_order: int,
    citation: str,
) -> Tableau:
    """A tableau from exact numbers ("1/3", "0.161"), each rounded once; rows are those of A below the first."""

    def read(text: str) -> list[Fraction]:
        return [Fraction(word) for word in text.split()]

    weights = read(b)
    s = len(weights)
    A = np.zeros((s, s))
    for i, row in enumerate(rows, start=1):
        numbers = read(row)
        A[i, : len(numbers)] = [float(x) for x in numbers]
    embedded = weights if bhat is None else read(bhat)
    return Tableau(
        name=name,
        A=A,
        b=np.array([float(x) for x in weights]),
        c=np.array([float(x) for x in read(c)]),
        e=np.array([float(x - y) for x, y in zip(weights, embedded, strict=True)]),
        p4=np.zeros(s) if p4 is None else np.array([float(x) for x in read(p4)]),
        order=order,
        error_order=error_order,
        fsal=bool(np.array_equal(A[-1, :-1], [float(x) for x in weights[:-1]]) and weights[-1] == 0 and s > 1),
        stiffness_pair=stiffness_pair,
        stiffness_constant=stiffness_constant,
        dense_order=dense_order,
        citation=citation,
    )


# The paper prints 16 digits; these are more digits of the same numbers. Its last error weight has the wrong sign: with
# e_7 = -1/66 they sum to zero.
_TSIT5_B = """
    0.09646076681806522951816731316512876 1/100 0.47988965041449957477524952322905965
    1.3790085741037418931922748218568728 -3.2900695154360806799010475857113639 2.3247105240997739824153559183987658 0
"""
TSIT5 = _method(
    "Tsit5",
    [
        "161/1000",
        "-0.0084806554923569885444268742502307747 0.33548065549235698854442687425023077",
        "2.89715305710549343213043259419294 -6.35944848997507484314815991238383 4.36229543286958141101772731819089",
        """5.3258648284392566044288779208405113 -11.748883564062827874774717033978558
           7.4955393428898362083046047845643582 -0.092495066361755249256502079332071912""",
        """5.8614554429464200286592514869826479 -12.920969317847109291706118681783359
           8.1593678985761586431804007945392535 -0.071584973281400997224530542525829739
           -0.028269050394068382909003057212712241""",
        _TSIT5_B,
    ],
    _TSIT5_B,
    """0.094680755765839458074788762557589229 0.0091835655403432530967763639366453138
       0.48777052842476157078556425996312282 1.2342975669304789856551096738842377
       -2.7077123499835254548811099750593217 1.8666284181705870357537193995662115 1/66""",
    c="0 161/1000 327/1000 9/10 0.98002554090450968572981028628702460 1 1",
    p4="""-1.0530884977290216 0.1017 2.490627285651252793 -16.54810288924490272
          47.37952196281928122 -34.87065786149660974 5/2""",
    order=5,
    error_order=4,
    stiffness_pair=(5, 6),
    stiffness_constant=3.5068,
    dense_order=4,
    citation="Tsi11",
)

_DORMAND_PRINCE: dict[str, Any] = {
    "rows": [
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ],
    "b": "35/384 0 500/1113 125/192 -2187/6784 11/84 0",
    "c": "0 1/5 3/10 4/5 8/9 1 1",
    "p4": """-12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072 701980252875/199316789632
             -1453857185/822651844 69997945/29380423""",
    "order": 5,
    "error_order": 4,
    "stiffness_pair": (5, 6),
    "stiffness_constant": 3.3066,
    "dense_order": 4,
}
# The weights of 1980, in Hairer's DOPRI5 and SciPy's RK45 (whose E is bhat - b, so E = -e).
DOPRI5 = _method(
    "Dopri5",
    bhat="5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    citation="DP80",
    **_DORMAND_PRINCE,
)
# The weights of torchdiffeq, JAX and diffrax: exactly 2/3 of the above, and so are errors and error penalties.
DOPRI5_SHAMPINE = _method(
    "Dopri5_Shampine",
    bhat="1951/21600 0 22642/50085 451/720 -12231/42400 649/6300 1/60",
    citation="Sha86",
    **_DORMAND_PRINCE,
)

BS32 = _method(
    "BS32",
    ["1/2", "0 3/4", "2/9 1/3 4/9"],
    "2/9 1/3 4/9 0",
    "7/24 1/4 1/3 1/8",
    c="0 1/2 3/4 1",
    order=3,
    error_order=2,
    stiffness_constant=2.5127,
    dense_order=3,
    citation="BS89",
)

RK4 = _method(
    "RK4",
    ["1/2", "0 1/2", "0 0 1"],
    "1/6 1/3 1/3 1/6",
    c="0 1/2 1/2 1",
    order=4,
    stiffness_pair=(1, 2),
    stiffness_constant=2.7853,
    dense_order=3,
    citation="Kut01",
)

EULER = _method("Euler", [], "1", c="0", order=1, stiffness_constant=2.0, dense_order=1, citation="HNW93")

METHODS: dict[str, Tableau] = {t.name: t for t in (TSIT5, DOPRI5, DOPRI5_SHAMPINE, BS32, RK4, EULER)}

_ALIASES: dict[str, Tableau] = {name.lower(): tableau for name, tableau in METHODS.items()} | {
    "dopri5shampine": DOPRI5_SHAMPINE,
    "rk45": DOPRI5,
    "dp5": DOPRI5,
    "rk23": BS32,
    "bs3": BS32,
    "bosh3": BS32,
}


def get_tableau(method: str | Tableau) -> Tableau:
    """The method of that name (any case, SciPy's names too), or the tableau itself. InputError: no such name."""
    if isinstance(method, Tableau):
        return method
    tableau = _ALIASES.get(method.lower()) if isinstance(method, str) else None
    if tableau is None:
        raise InputError(
            f"unknown method {method!r}; choose one of {', '.join(METHODS)} (RK45 is Dopri5, RK23 is BS32), "
            "or pass a Tableau"
        )
    return tableau
