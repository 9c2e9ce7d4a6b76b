"""One Runge–Kutta step, and its transpose.

All arrays are flat: a batch (B, n) of states is its (N,) view, N = B n, stepped jointly. A field is seen through three functions

    value(t, Y, r, theta, K, i)                              K[i] = f(t, Y[r]; θ)
    linearize(t, y, theta, out, kept)                        the same, and keeps what the transpose needs; with an empty out only that
    pullback(t, y, theta, kept, w, y_bar, theta_bar)         y_bar += (∂f/∂y)ᵀ w,   theta_bar += (∂f/∂θ)ᵀ w

bound by `specialize`, and through θ only as something to hand on. With stages Y₁ = y₀, K_i = f(t + c_i h, Y_i):

(1)   Y_i = y₀ + h Σ_{j<i} a_ij K_j,      y₁ = y₀ + h Σ b_j K_j                                        [HNW93, II.1 (1.8)]
(2)   err = h Σ e_j K_j,   e = b − b̂,     q = scaled_rms(err, y₀, y₁)                                  [HNW93, II.4]
(2')  with a second embedded method of lower order, err = (h Σ e_j K_j, h Σ e^low_j K_j) in 2 N entries, q_e and q_low their scaled_rms:
      q = q_e²/d,   d = sqrt(q_e² + 0.01 q_low²),   0 where both are 0                                    [HNW93, II.10]
(3)   S = ‖K_j − K_i‖ / (‖Y_j − Y_i‖ C)   for the pair of stages with c_i = c_j; C the method's real stability interval   [Sha77; HW96, IV.2]
      in units of 1/time: |h| S is near 1 on the border of stability

and for cotangents ȳ₁, err̄, q̄, S̄ and any K̄_i that came from elsewhere (dense output, the next step's first stage), h held:

(4)   err̄ += q̄ ∂q/∂err,  ȳ₁ += q̄ ∂q/∂y₁,  ȳ₀ += q̄ ∂q/∂y₀
(4')  with r = q_e/d:   q̄_e = q̄ r (2 − r²),   q̄_low = −0.01 q̄ r² q_low/d,   both 0 where d = 0;   then (4) of each
(5)   K̄_i += h (b_i ȳ₁ + e_i err̄),   ȳ₀ += ȳ₁;   with (2'), e_i err̄ is e_i err̄_e + e^low_i err̄_low
(6)   with D = K_j − K_i, G = Y_j − Y_i, n_D = rms D, n_G = rms G:
      K̄_j += S̄ D/(N n_D n_G C),  K̄_i −= the same;   Ȳ_j −= S̄ n_D G/(N n_G³ C),  Ȳ_i += the same;   all 0 where n_D = 0 or n_G = 0
(7)   for i = s … 2:   Ȳ_i += pullback(Y_i, K̄_i),   ȳ₀ += Ȳ_i,   K̄_j += h a_ij Ȳ_i  (j < i)
(8)   K̄₁ is left to the caller: with FSAL it joins the previous step's K̄_s, else ȳ₀ += pullback(y₀, K̄₁)
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import borrow, dual, inline, kernel, specialize
from .combine import add, combine, combine_each, combine_vjp, is_zero
from .norms import rms_rows, scaled_rms, scaled_rms_vjp
from .tableau import Coefficients


@inline
def borrowed(tab):
    """The same coefficients for use inside a kernel; see `_jit.borrow`. `constant` takes its place."""
    return borrow(tab)


def constant(tab):
    """In the place of `borrowed`: these coefficients as constants of the code, so that the sums are unrolled and their zeros dropped."""
    A, b, c, e, e_low, dense, *numbers = tab
    pair_i, pair_j, length, fsal, adaptive, error_order = numbers

    @inline
    def coefficients(tab):
        return Coefficients(A, b, c, e, e_low, dense, pair_i, pair_j, length, fsal, adaptive, error_order)

    return coefficients


def value(t, Y, r, theta, K, i):
    """K[i] = f(t, Y[r]; θ); bound by `specialize`. By rows, as in `combine`."""
    raise NotImplementedError


def linearize(t, y, theta, out, kept):
    """The field, keeping what its transpose needs; bound by `specialize`."""
    raise NotImplementedError


def pullback(t, y, theta, kept, w, y_bar, theta_bar):
    """The field's transpose; bound by `specialize`."""
    raise NotImplementedError


@inline
def _turn(i, rows):
    """i modulo rows; a division would cost as much as the sums of a stage."""
    while i >= rows:
        i -= rows
    return i


@dual
def stages(theta, tab, t, h, y0, first, last, Y, K):
    """Equation (1) for stages first … last − 1, given K_j for j < first; Y is (s, N), or has fewer rows, used in turn, when no more is needed.

    The stages from s on are those of the continuous extension alone.
    """
    A, c, rows = tab.A, tab.c, Y.shape[0]
    r = _turn(first, rows)
    for i in range(first, last):
        combine(y0, h, A, i, K, i, Y, r)
        value(t + c[i] * h, Y, r, theta, K, i)
        r = r + 1 if r + 1 < rows else 0


def unrolled(tab, value, rows):
    """In the place of `stages` from the second to the last: a chain of functions, one a stage, in which its number and weights are constants of the code.

    tab the coefficients, value the right-hand side by rows, rows the number of rows of Y
    """

    def link(before, i):
        weights, node, r = tab.A[i, :i].copy(), tab.c[i], i % rows

        @inline
        def stage(theta, t, h, y0, Y, K):
            before(theta, t, h, y0, Y, K)
            combine_each(y0, h, weights, 0, K, i, Y, r, True)
            value(t + node * h, Y, r, theta, K, i)

        return stage

    @inline
    def chain(theta, t, h, y0, Y, K):
        pass

    for i in range(1, tab.b.size):
        chain = link(chain, i)

    @inline
    def stages(theta, tab, t, h, y0, Y, K):
        chain(theta, t, h, y0, Y, K)

    return stages


@kernel(forceinline=True)
def estimate(tab, h, y0, y1, K, atol, rtol, err):
    """Equation (2) or (2'): fills err, (N,) or (2 N,), and returns q; zeros without an embedded method."""
    error_vector(tab, h, y0, K, err)
    return scaled_error(tab, err, y0, y1, atol, rtol)


@kernel(forceinline=True)
def error_vector(tab, h, y0, K, err):
    """Equation (2, left) or (2', left): fills err, (N,) or (2 N,); y0 says how long one is."""
    s, n = tab.b.size, y0.size
    if tab.e_low.size == 0:
        combine(y0, h, tab.e, 0, K, s if tab.adaptive else 0, err, 0, False)
    else:
        combine(y0, h, tab.e, 0, K, s, err[:n], 0, False)
        combine(y0, h, tab.e_low, 0, K, s, err[n:], 0, False)


@kernel(forceinline=True)
def scaled_error(tab, err, y0, y1, atol, rtol):
    """Equation (2, right) or (2', right): q of an error vector."""
    if tab.e_low.size == 0:
        return scaled_rms(err, y0, y1, atol, rtol)
    n = y0.size
    return of_two(scaled_rms(err[:n], y0, y1, atol, rtol), scaled_rms(err[n:], y0, y1, atol, rtol))


@kernel(forceinline=True)
def of_two(q, q_low):
    """Equation (2', right) of both norms."""
    d = math.hypot(q, 0.1 * q_low)
    if d == 0.0 or not d < math.inf:  # an infinite d must not divide an overflow away
        return d
    return q * (q / d)


@kernel(forceinline=True)
def end_state(tab, h, y0, K, Y, y1):
    """Equation (1, right) after the stages."""
    if tab.fsal:  # a_s = b: the last stage state is y₁ already
        r = _turn(tab.b.size - 1, Y.shape[0])
        for e in range(y1.size):
            y1[e] = Y[r, e]
    else:
        combine(y0, h, tab.b, 0, K, tab.b.size, y1, 0)


@inline
def pair_rows(tab, Y):
    """The rows of Y in which the stiffness pair's states are."""
    return _turn(tab.pair_i, Y.shape[0]), _turn(tab.pair_j, Y.shape[0])


@kernel(forceinline=True)
def finish(tab, h, y0, K, Y, atol, rtol, y1, err):
    """Equations (1, right), (2) or (2') and (3) after the stages; returns (q, S).

    Y holds the stage states from the stiffness pair's first on, row i in Y[i % rows]; err is (N,), or (2 N,) with two estimates.
    """
    end_state(tab, h, y0, K, Y, y1)
    q = estimate(tab, h, y0, y1, K, atol, rtol, err)
    stiffness = np.nan
    if tab.pair_i >= 0:
        i, j = pair_rows(tab, Y)
        n_d = rms_rows(K, tab.pair_j, tab.pair_i)
        n_g = rms_rows(Y, j, i)
        stiffness = n_d / (n_g * tab.constant) if n_g > 0.0 else 0.0
    return q, stiffness


@dual
def measure(theta, tab, h, y0, K, Y, atol, rtol, y1, err):
    """`finish`; bound by `specialize` to another where the state's norms are not those of its numbers."""
    return finish(tab, h, y0, K, Y, atol, rtol, y1, err)


@dual
def linearized_stages(theta, tab, t, h, y0, first, last, Y, K, kept, have_K):
    """`stages` that also keep, in row i of `kept`, what stage i's pullback needs; Y is (s, N). Returns the number of calls.

    have_K: the rows of K are known already, and nothing but what the pullback needs is computed: no call at all where it needs nothing.
    """
    for i in range(first, last):
        combine(y0, h, tab.A, i, K, i, Y, i)
        linearize(t + tab.c[i] * h, Y[i], theta, K[i][:0] if have_K else K[i], kept[i])
    return 0 if have_K and kept.shape[1] == 0 else last - first


@kernel
def bars_of_two(q_e, q_low, q_bar):
    """Equation (4'): the cotangents of both norms."""
    d = math.hypot(q_e, 0.1 * q_low)
    r = q_e / d if d > 0.0 else 0.0
    return q_bar * r * (2.0 - r * r), -0.01 * q_bar * r * r * (q_low / d) if d > 0.0 else 0.0


@kernel
def scaled_error_vjp(tab, err, y0, y1, atol, rtol, q, q_bar, err_bar, y0_bar, y1_bar):
    """Equation (4) or (4'): adds the cotangents of `scaled_error`, whose value is q where it is known; NaN where it is not.

    A known q may be that of more elements than there are here, whose share of q̄ then is to be given.
    """
    if q_bar == 0.0:
        return
    n = y0.size
    if tab.e_low.size == 0:
        q = scaled_rms(err, y0, y1, atol, rtol) if math.isnan(q) else q
        scaled_rms_vjp(err, y0, y1, atol, rtol, q, q_bar, err_bar, y0_bar, y1_bar)
        return
    q_e, q_low = scaled_rms(err[:n], y0, y1, atol, rtol), scaled_rms(err[n:], y0, y1, atol, rtol)
    e_bar, low_bar = bars_of_two(q_e, q_low, q_bar)
    scaled_rms_vjp(err[:n], y0, y1, atol, rtol, q_e, e_bar, err_bar[:n], y0_bar, y1_bar)
    scaled_rms_vjp(err[n:], y0, y1, atol, rtol, q_low, low_bar, err_bar[n:], y0_bar, y1_bar)


@kernel
def finish_vjp(tab, h, y0, y1, K, Y, err, atol, rtol, y1_bar, q_bar, stiffness_bar, err_bar, y0_bar, K_bar, Y_bar):
    """Equations (4) or (4'), (5) and (6): adds to y0_bar (N,), K_bar (s, N) and Y_bar (2, N), the cotangents of the stage pair's states.

    y1_bar (N,) and err_bar, of err's size, are the incoming cotangents and are added to (4).
    """
    scaled_error_vjp(tab, err, y0, y1, atol, rtol, np.nan, q_bar, err_bar, y0_bar, y1_bar)
    carry_vjp(tab, h, y1_bar, err_bar, y0_bar, K_bar)
    stiffness_vjp(tab, K, Y, stiffness_bar, K_bar, Y_bar)


@kernel
def carry_vjp(tab, h, y1_bar, err_bar, y0_bar, K_bar):
    """Equation (5): adds to y0_bar (N,) and K_bar (s, N)."""
    s, n = tab.b.size, y1_bar.size
    combine_vjp(h, tab.b, s, y1_bar, K_bar)
    add(y1_bar, y0_bar)
    if is_zero(err_bar):
        return
    if tab.adaptive:
        combine_vjp(h, tab.e, s, err_bar[:n], K_bar)
    if tab.e_low.size > 0:
        combine_vjp(h, tab.e_low, s, err_bar[n:], K_bar)


@inline
def stiffness_slopes(tab, n, n_d, n_g, stiffness_bar):
    """What D and G of equation (6) are multiplied by; (0, 0) where it is not differentiable."""
    if n_d == 0.0 or n_g == 0.0:
        return 0.0, 0.0
    return stiffness_bar / (n * n_d * n_g * tab.constant), -stiffness_bar * n_d / (n * n_g**3 * tab.constant)


@kernel
def stiffness_vjp(tab, K, Y, stiffness_bar, K_bar, Y_bar):
    """Equation (6): adds to rows i and j of K_bar, and to Y_bar (2, N)."""
    if stiffness_bar == 0.0 or tab.pair_i < 0:
        return
    i, j = tab.pair_i, tab.pair_j
    by_k, by_y = stiffness_slopes(tab, K.shape[1], rms_rows(K, j, i), rms_rows(Y, j, i), stiffness_bar)
    if by_k == 0.0:
        return
    for e in range(K.shape[1]):
        k_bar = by_k * (K[j, e] - K[i, e])
        y_bar = by_y * (Y[j, e] - Y[i, e])
        K_bar[j, e] += k_bar
        K_bar[i, e] -= k_bar
        Y_bar[1, e] += y_bar
        Y_bar[0, e] -= y_bar


@dual
def estimates_vjp(theta, tab, h, y0, y1, K, Y, atol, rtol, q, q_bar, stiffness_bar, err, y1_bar, err_bar, y0_bar, K_bar, Y_bar):
    """Equations (2), (4) and (6) of a step whose estimates have cotangents, q as in `scaled_error_vjp`; bound by `specialize` where `measure` is."""
    error_vector(tab, h, y0, K, err)
    scaled_error_vjp(tab, err, y0, y1, atol, rtol, q, q_bar, err_bar, y0_bar, y1_bar)
    stiffness_vjp(tab, K, Y, stiffness_bar, K_bar, Y_bar)


@dual
def stages_vjp(theta, tab, t, h, Y, kept, first, Y_pair_bar, Y_bar, y0_bar, K_bar, theta_bar):
    """Equation (7) for stages s … first + 1: consumes K_bar's rows from `first` on and adds to the rows before, to y0_bar and theta_bar.

    Y_bar (N,) is scratch; Y_pair_bar (2, N) holds Ȳ of the stiffness pair; a stage whose cotangents are all 0 is skipped.
    returns the number of pullbacks
    """
    calls = 0
    for i in range(K_bar.shape[0] - 1, first - 1, -1):
        if i == tab.pair_j:
            Y_bar[:] = Y_pair_bar[1]
        elif i == tab.pair_i:
            Y_bar[:] = Y_pair_bar[0]
        else:
            Y_bar[:] = 0.0
        if not is_zero(K_bar[i]):
            pullback(t + tab.c[i] * h, Y[i], theta, kept[i], K_bar[i], Y_bar, theta_bar)
            calls += 1
        add(Y_bar, y0_bar)
        combine_vjp(h, tab.A[i], i, Y_bar, K_bar)
    return calls


# The same functions for any bound field (`adaptode.fields.Bound` in the place of theta), called from Python: for one step at a time.


def bound_value(t, Y, r, bound, K, i):
    """`value` of a bound field."""
    bound.value(t, Y[r], bound.pack, K[i])


def bound_linearize(t, y, bound, out, kept):
    """`linearize` of a bound field."""
    bound.linearize(t, y, bound.pack, out, kept)


def bound_pullback(t, y, bound, kept, w, y_bar, theta_bar):
    """`pullback` of a bound field."""
    bound.pullback(t, y, bound.pack, kept, w, y_bar, theta_bar)


bound_stages = specialize(stages, compiled=False, value=bound_value)
bound_linearized_stages = specialize(linearized_stages, compiled=False, linearize=bound_linearize)
bound_stages_vjp = specialize(stages_vjp, compiled=False, pullback=bound_pullback)
