"""Fields made of fields: sums, multiples, and another clock. Also the extra dimensions of augmented neural ODEs.

(1)  Sum             f = Σ_i f_i(t, y; θ_i),   θ = (θ_0, θ_1, …)
(2)  Scaled          f̃(t, y) = c f(t, y)
(3)  TimeRescaled    f̃(t, y) = r f(s + r t, y):   where y(t) solves y′ = f, y(s + r t) solves y′ = f̃

Both (2) and (3) are f̃ = factor · f(shift + rate t, y), so that with the clock s = shift + rate t

(4)  J̃ = factor J(s),   w̄ of the part = factor w̄,   ∂f̃/∂t = factor rate ∂f/∂t(s),   f̃_k = factor f_k with the time s + rate τ along the path

Every derivative is that of the parts; a composition has those that all its parts have. Its loop runs in Python, the arithmetic in the parts' kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checked import check_rng
from ..errors import InputError
from .protocol import Array, Bound, Field
from .series import Series


class _Composition(Field):
    """What compositions of `parts` share: a derivative is there where every part has it."""

    parts: tuple[Field, ...]

    def _take(self, parts: tuple[Field, ...]) -> None:
        """The parts, their sizes and the places of their parameters."""
        for part in parts:
            if not isinstance(part, Field):
                raise InputError(f"{type(self).__name__} is made of fields; got {part!r} (a function f(t, y, theta) is one as adaptode.PythonField(f, n=...))")
        sizes = sorted({part.n for part in parts})
        if len(sizes) != 1:
            raise InputError(f"{type(self).__name__} needs fields of one number of components; got {', '.join(map(str, sizes)) or 'no field'}")
        self.parts, self.n = parts, sizes[0]
        ends = list(accumulate((part.n_params for part in parts), initial=0))
        self.n_params = ends[-1]
        self._places = [slice(a, b) for a, b in pairwise(ends)]
        self.name = f"{type(self).__name__}({', '.join(part.name for part in parts)})"

    def _has(self, name: str) -> bool:
        return all(part._has(name) for part in self.parts)

    def require(self, *derivatives: str) -> None:
        for part in self.parts:
            part.require(*derivatives)

    def require_smooth(self, what: str) -> None:
        for part in self.parts:
            part.require_smooth(what)

    def config(self) -> dict[str, Any]:
        """The parts' own descriptions, for JSON."""
        return {"field": type(self).__name__, "parts": [_describe(part) for part in self.parts]}

    def init(self, rng: np.random.Generator | int | None = None, **options: Any) -> Array:
        """Initial parameters (P,): each part's own, one after the other from one generator; options go to every part."""
        rng = check_rng(rng)
        return np.concatenate([_init(part, rng, options) for part in self.parts])

    def _each(self, theta: Array) -> list[tuple[Field, Array]]:
        """The parts with their parameters."""
        return [(part, theta[place]) for part, place in zip(self.parts, self._places, strict=True)]

    def _inputs(self, y: Array, theta: Array) -> tuple[Array, list[tuple[Field, Array]]]:
        y, theta = self.check(y, theta)
        return y, self._each(theta)


class Sum(_Composition):
    """f = f_0 + f_1 + …, each field with its own parameters, one after the other in θ.

    fields    two or more, or one, of the same number of components

    `views` names a part's parameters by its number: "0.W1", "1.A". Fields that share parameters are not a Sum; give them as one PythonField.
    """

    def __init__(self, *fields: Field) -> None:
        self._take(fields)

    def __repr__(self) -> str:
        return f"Sum({', '.join(map(repr, self.parts))})"

    def views(self, theta: Array) -> dict[str, Array]:
        """The parts of a flat parameter vector by name, the number of the field before it: views, so writing to one writes to theta."""
        theta = np.asarray(theta)
        if theta.shape != (self.n_params,):
            raise InputError(f"theta must have shape ({self.n_params},) for {self!r}; got {theta.shape}")
        return {f"{i}.{name}": part for i, pair in enumerate(self._each(theta)) for name, part in _views(*pair).items()}

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        theta = np.ascontiguousarray(theta, dtype=dtype)
        bounds = [part.bind(values, batch, dtype) for part, values in self._each(theta)]
        ends = list(accumulate((bound.kept for bound in bounds), initial=0))
        rows = [slice(a, b) for a, b in pairwise(ends)]
        term = np.empty(batch * self.n, dtype)

        def value(t: float, y: Array, pack: Any, out: Array) -> None:
            first, *others = bounds
            first.value(t, y, first.pack, out)
            for bound in others:
                term.fill(np.nan)  # what a part forgets to fill must not pass for an answer
                bound.value(t, y, bound.pack, term)
                np.add(out, term, out=out)

        def linearize(t: float, y: Array, pack: Any, out: Array, kept: Array) -> None:
            for i, (bound, row) in enumerate(zip(bounds, rows, strict=True)):
                target = (term if i else out)[: out.size]
                target.fill(np.nan)
                bound.linearize(t, y, bound.pack, target, kept[row])
                if i:
                    np.add(out, target, out=out)

        def pullback(t: float, y: Array, pack: Any, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
            for bound, row, place in zip(bounds, rows, self._places, strict=True):
                bound.pullback(t, y, bound.pack, kept[row], w, y_bar, theta_bar[place])

        return Bound("python", value, linearize, pullback, None, ends[-1], owner=bounds)

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        y, parts = self._inputs(y, theta)
        return sum(part.jvp(t, y, values, y_dot) for part, values in parts)

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        y, parts = self._inputs(y, theta)
        return sum(part.jacobian(t, y, values) for part, values in parts)

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        y, parts = self._inputs(y, theta)
        y_bars, theta_bars = zip(*(part.bilinear_vjp(t, y, values, u, w) for part, values in parts), strict=True)
        return sum(y_bars), np.concatenate(theta_bars)

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        """⟨w, ∂f/∂t⟩."""
        y, parts = self._inputs(y, theta)
        return float(sum(part.time_vjp(t, y, values, w) for part, values in parts))

    def series(self, t: Any, y: Array, theta: Array, rate: Any = 1.0) -> Series:
        return _SumSeries([part.series(t, y, values, rate) for part, values in self._each(theta)], self._places)


class _SumSeries(Series):
    def __init__(self, parts: list[Series], places: list[slice]) -> None:
        self.parts, self.places = parts, places

    def push(self, k: int) -> Array:
        return sum(part.push(k) for part in self.parts)

    def transpose(self, y_bar: Array, theta_bar: Array) -> Callable[[int, Array], None]:
        pulls = [part.transpose(y_bar, theta_bar[place]) for part, place in zip(self.parts, self.places, strict=True)]

        def pull(k: int, f_bar: Array) -> None:
            for each in pulls:
                each(k, f_bar)

        return pull


class _Multiple(_Composition):
    """f̃(t, y) = factor · f(shift + rate t, y), equation (4)."""

    def __init__(self, field: Field, factor: Any, shift: Any, rate: Any) -> None:
        self._take((field,))
        for number in (factor, shift, rate):
            if isinstance(number, bool) or not (isinstance(number, Real) and math.isfinite(number)):
                raise InputError(f"{type(self).__name__} takes finite numbers; got {number!r}")
        self.factor, self.shift, self.rate = float(factor), float(shift), float(rate)

    def clock(self, t: Any) -> Any:
        """The time that the part sees at t."""
        return self.shift + self.rate * t

    def views(self, theta: Array) -> dict[str, Array]:
        """The part's own."""
        return _views(self.parts[0], theta)

    def bind(self, theta: Array, batch: int, dtype: Any) -> Bound:
        bound, factor = self.parts[0].bind(theta, batch, dtype), np.dtype(dtype).type(self.factor)

        def value(t: float, y: Array, pack: Any, out: Array) -> None:
            bound.value(self.clock(t), y, pack, out)
            np.multiply(out, factor, out=out)

        def linearize(t: float, y: Array, pack: Any, out: Array, kept: Array) -> None:
            bound.linearize(self.clock(t), y, pack, out, kept)
            np.multiply(out, factor, out=out)

        def pullback(t: float, y: Array, pack: Any, kept: Array, w: Array, y_bar: Array, theta_bar: Array) -> None:
            bound.pullback(self.clock(t), y, pack, kept, factor * w, y_bar, theta_bar)

        return Bound("python", value, linearize, pullback, bound.pack, bound.kept, owner=bound)

    def jvp(self, t: float, y: Array, theta: Array, y_dot: Array) -> Array:
        return self._times(self.parts[0].jvp(self.clock(t), y, theta, y_dot))

    def jacobian(self, t: float, y: Array, theta: Array) -> Array:
        return self._times(self.parts[0].jacobian(self.clock(t), y, theta))

    def bilinear_vjp(self, t: float, y: Array, theta: Array, u: Array, w: Array) -> tuple[Array, Array]:
        y_bar, theta_bar = self.parts[0].bilinear_vjp(self.clock(t), y, theta, u, w)
        return self._times(y_bar), self._times(theta_bar)

    def time_vjp(self, t: float, y: Array, theta: Array, w: Array) -> float:
        """⟨w, ∂f̃/∂t⟩."""
        return self.factor * self.rate * self.parts[0].time_vjp(self.clock(t), y, theta, w)

    def series(self, t: Any, y: Array, theta: Array, rate: Any = 1.0) -> Series:
        return _MultipleSeries(self.parts[0].series(self.clock(t), y, theta, self.rate * rate), self.factor)

    def _times(self, array: Array) -> Array:
        return array.dtype.type(self.factor) * array


class _MultipleSeries(Series):
    def __init__(self, part: Series, factor: float) -> None:
        self.part, self.factor = part, factor

    def push(self, k: int) -> Array:
        return self.factor * self.part.push(k)

    def transpose(self, y_bar: Array, theta_bar: Array) -> Callable[[int, Array], None]:
        pull = self.part.transpose(y_bar, theta_bar)
        return lambda k, f_bar: pull(k, self.factor * f_bar)


class Scaled(_Multiple):
    """c f(t, y): the same curves, run through c times as fast where f does not see the time; c = −1 runs them backwards.

    factor  c, a number; not a parameter
    """

    def __init__(self, field: Field, factor: float) -> None:
        super().__init__(field, factor, 0.0, 1.0)

    def __repr__(self) -> str:
        return f"Scaled({self.parts[0]!r}, {self.factor!r})"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "factor": self.factor}


class TimeRescaled(_Multiple):
    """scale · f(shift + scale t, y): the states of y′ = f on another clock.

    What f does from t0 to t1, this field does over `span((t0, t1))` = ((t0 − shift)/scale, (t1 − shift)/scale).
    scale is not 0; shift is in units of f's time.
    """

    def __init__(self, field: Field, scale: float, shift: float = 0.0) -> None:
        super().__init__(field, scale, shift, scale)
        if self.rate == 0.0:
            raise InputError("TimeRescaled: scale must not be 0, which would stop the time")

    def __repr__(self) -> str:
        return f"TimeRescaled({self.parts[0]!r}, {self.rate!r}, {self.shift!r})"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "scale": self.rate, "shift": self.shift}

    def span(self, tspan: tuple[float, float]) -> tuple[float, float]:
        """The span on this clock of a span of the part."""
        t0, t1 = ((t - self.shift) / self.rate for t in tspan)
        return t0, t1


def augment(X: ArrayLike, extra: int) -> Array:
    """X (B, n) with `extra` zeros after each sample, (B, n + extra): the start of an augmented neural ODE.                   [Dup19]

    A flow in n dimensions cannot let samples pass through each other; in n + extra it can go around. The field acts on all n + extra components.
    """
    X = np.asarray(X)
    if X.ndim != 2:
        raise InputError(f"augment takes samples of shape (B, n); got {X.shape}")
    if isinstance(extra, bool) or not (isinstance(extra, (int, np.integer)) and extra >= 0):
        raise InputError(f"the number of dimensions to augment by must be a whole number of at least 0; got {extra!r}")
    return np.pad(X, ((0, 0), (0, int(extra))))


def _describe(field: Field) -> dict[str, Any]:
    """A field for JSON: its own description, or what is known of any."""
    config = getattr(field, "config", None)
    return config() if config else {"name": field.name, "n": field.n, "n_params": field.n_params}


def _views(field: Field, theta: Array) -> dict[str, Array]:
    """A field's named parameters; without names of its own, all as "theta", and nothing where it has none."""
    views = getattr(field, "views", None)
    if views:
        return views(theta)
    return {"theta": theta} if theta.size else {}


def _init(field: Field, rng: np.random.Generator, options: dict[str, Any]) -> Array:
    init = getattr(field, "init", None)
    if init:
        return init(rng, **options)
    if field.n_params:
        raise InputError(f"{field!r} cannot initialise its parameters; give starting parameters of the whole field")
    return np.empty(0, options.get("dtype", np.float64))
