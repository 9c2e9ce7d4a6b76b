"""Scaled norms of a local error, and their cotangents.

`atol` and `rtol` are arrays of one element, or of one element a component (flat, like the state). States may be complex: |y| is then the modulus.
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import inline, kernel

_BLOCK = 128
_ONE = np.float64(1.0)  # times float32 is float64, times complex128 itself


@inline
def _step(tolerance):
    return 0 if tolerance.size == 1 else 1


@kernel(forceinline=True)
def scaled_rms(err, y0, y1, atol, rtol):
    """RMS of a local error in units of the tolerance.

    q = sqrt( (1/N) Σᵢ (errᵢ / sᵢ)² ),   sᵢ = atolᵢ + rtolᵢ max(|y0ᵢ|, |y1ᵢ|)          [HNW93, II.4 (4.11)]

    err, y0, y1 : (N,) float or complex      units of y
    atol, rtol  : (1,) or (N,)    atol in units of y, rtol dimensionless
    returns q   : float           dimensionless; q <= 1 accepts; a NaN or inf anywhere in err, y0 or y1 gives NaN or inf, which rejects

    Not differentiable where |y0ᵢ| = |y1ᵢ|; `scaled_rms_vjp` takes the y0 branch there, and returns 0 at q = 0.
    """
    n = err.size
    if n >= _BLOCK:
        sums = np.zeros(4)
        add_squares(err, y0, y1, atol, rtol, sums)
        return rms_of(sums, n)
    da, dr = _step(atol), _step(rtol)
    # Four running sums: an order fixed in the source that still fills the floating-point pipeline.
    s0 = s1 = s2 = s3 = 0.0
    m = n - n % 4
    for i in range(0, m, 4):
        a = _ratio(err, y0, y1, atol, rtol, da, dr, i)
        b = _ratio(err, y0, y1, atol, rtol, da, dr, i + 1)
        c = _ratio(err, y0, y1, atol, rtol, da, dr, i + 2)
        d = _ratio(err, y0, y1, atol, rtol, da, dr, i + 3)
        s0 += a * a
        s1 += b * b
        s2 += c * c
        s3 += d * d
    for i in range(m, n):
        a = _ratio(err, y0, y1, atol, rtol, da, dr, i)
        s0 += a * a
    return math.sqrt(((s0 + s1) + (s2 + s3)) / n) if n else 0.0


@kernel
def add_squares(err, y0, y1, atol, rtol, sums):
    """The running sums (4,) of `scaled_rms`, over these elements too; those before them are a multiple of four.

    A block's squares come first, which become SIMD instructions as sums in a fixed order do not.
    """
    da, dr = _step(atol), _step(rtol)
    s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
    squares, n = np.empty(_BLOCK), err.size
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        stop = start + size
        e, a, b = err[start:stop], y0[start:stop], y1[start:stop]
        if da == 0 and dr == 0:
            absolute, relative = atol[0], rtol[0]
            for i in range(size):
                q = _scaled(np.float64(abs(e[i])), np.float64(abs(a[i])), np.float64(abs(b[i])), absolute, relative)
                squares[i] = q * q
        else:
            for i in range(size):
                q = _ratio(err, y0, y1, atol, rtol, da, dr, start + i)
                squares[i] = q * q
        m = size - size % 4
        for i in range(0, m, 4):
            s0 += squares[i]
            s1 += squares[i + 1]
            s2 += squares[i + 2]
            s3 += squares[i + 3]
        for i in range(m, size):
            s0 += squares[i]
    sums[0], sums[1], sums[2], sums[3] = s0, s1, s2, s3


@inline
def rms_of(sums, n):
    """The root mean square of n elements whose squares are in running sums."""
    return math.sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) / n)


@inline
def _ratio(err, y0, y1, atol, rtol, da, dr, i):
    y0_size, y1_size = np.float64(abs(y0[i])), np.float64(abs(y1[i]))
    return _scaled(np.float64(abs(err[i])), y0_size, y1_size, atol[i * da], rtol[i * dr])


@inline
def _scaled(err, a, b, atol, rtol):
    larger = a if a >= b else b
    # an infinite scale must not hide an overflow, nor the comparison a NaN: (a − b) 0 is NaN unless both are finite
    return err / (atol + rtol * larger) + (a - b) * 0.0


@inline
def scaled_rms_lanes(err, y0, y1, atol, rtol, sums, out, width):
    """`scaled_rms` of each column of (n, width) arrays, in the same order of sums, into out (width,); sums is (4, width) scratch.

    Lane after lane in the innermost loop, because that is the loop which becomes SIMD instructions.
    """
    n = err.shape[0]
    da, dr = _step(atol), _step(rtol)
    for k in range(4):
        for l in range(width):
            sums[k, l] = 0.0
    for i in range(n):
        k = i % 4 if i < n - n % 4 else 0
        a, r = atol[i * da], rtol[i * dr]
        for l in range(width):
            q = _scaled(abs(err[i, l]), abs(y0[i, l]), abs(y1[i, l]), a, r)
            sums[k, l] += q * q
    for l in range(width):
        out[l] = math.sqrt(((sums[0, l] + sums[1, l]) + (sums[2, l] + sums[3, l])) / n)


@kernel
def scaled_rms_vjp(err, y0, y1, atol, rtol, q, q_bar, err_bar, y0_bar, y1_bar):
    """Adds the cotangents of `scaled_rms`.

    with rᵢ = errᵢ/sᵢ :   ēᵢ += q̄ rᵢ / (N q sᵢ),     s̄ᵢ = −q̄ rᵢ² / (N q sᵢ),     ȳ{0,1}ᵢ += s̄ᵢ rtolᵢ sign(y{0,1}ᵢ) on the larger branch

    All zero at q = 0, where the norm has a minimum and no derivative.
    """
    n = err.size
    if q == 0.0 or q_bar == 0.0:
        return
    da, dr = _step(atol), _step(rtol)
    c = q_bar / (n * q)
    for i in range(n):
        by_err, by_y0, by_y1 = _bars(err[i], y0[i], y1[i], atol[i * da], rtol[i * dr], c)
        err_bar[i] += by_err
        y0_bar[i] += by_y0
        y1_bar[i] += by_y1


@inline
def _bars(err, y0, y1, atol, rtol, c):
    """Without branches, so that a loop around it becomes SIMD instructions."""
    err, y0, y1 = np.float64(err), np.float64(y0), np.float64(y1)
    a, b = abs(y0), abs(y1)
    first = a >= b
    per_s = 1.0 / (atol + rtol * (a if first else b))
    r = err * per_s
    e_bar = c * r * per_s
    y_bar = -e_bar * r * rtol
    y = y0 if first else y1
    y_bar = y_bar if y > 0.0 else (-y_bar if y < 0.0 else 0.0)
    return e_bar, (y_bar if first else 0.0), (0.0 if first else y_bar)


@kernel
def scaled_rms_bars(err, y0, y1, atol, rtol, c):
    """The cotangents of `scaled_rms` for c = q̄/(N q), each in the place of what it is the cotangent of."""
    if atol.size == 1 and rtol.size == 1:
        absolute, relative = atol[0], rtol[0]
        for i in range(err.size):
            err[i], y0[i], y1[i] = _bars(err[i], y0[i], y1[i], absolute, relative, c)
        return
    da, dr = _step(atol), _step(rtol)
    for i in range(err.size):
        err[i], y0[i], y1[i] = _bars(err[i], y0[i], y1[i], atol[i * da], rtol[i * dr], c)


@kernel(forceinline=True)
def rms_rows(A, i, j):
    """sqrt( (1/N) Σₑ |Aᵢₑ − Aⱼₑ|² ) of two rows of an array (m, N)."""
    s0 = s1 = 0.0
    n = A.shape[1]
    m = n - n % 2
    for e in range(0, m, 2):
        d0 = abs(_ONE * A[i, e] - _ONE * A[j, e])
        d1 = abs(_ONE * A[i, e + 1] - _ONE * A[j, e + 1])
        s0 += d0 * d0
        s1 += d1 * d1
    if m < n:
        d0 = abs(_ONE * A[i, m] - _ONE * A[j, m])
        s0 += d0 * d0
    return math.sqrt((s0 + s1) / n) if n else 0.0
