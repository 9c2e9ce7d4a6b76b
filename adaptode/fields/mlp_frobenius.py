"""‖J_b‖_F of a network with one hidden layer, without J.

J_bᵀ = W_1 D_b W_2 with D_b = diag d_b, d_b = σ′(z_b), z = y W_1 + b_1 + t v_1, so that only d depends on the sample:

(1)  ‖J_b‖_F² = tr W_1 D W_2 W_2ᵀ D W_1ᵀ = d_bᵀ G d_b,   G = A ∘ C,   A = W_1ᵀ W_1,   C = W_2 W_2ᵀ                             (h, h)

and with s_b = φ̄_b / ‖J_b‖_F, M = Σ_b s_b d_b d_bᵀ

(2)  d̄_b = s_b G d_b,   W̄_1 = W_1 (M ∘ C),   W̄_2 = (M ∘ A) W_2
     z̄ = σ″(z) ⊙ d̄,   W̄_1 += yᵀ z̄,   b̄_1 = Σ_b z̄_b,   v̄_1 = t b̄_1,   ȳ = z̄ W_1ᵀ

h² (4 n + 2 B) multiplications beside those of the value, and matrices (h, h), where J and its transpose take 3 B n² h, and matrices (B n, n). The sum (1) may
cancel: no term is larger than those of r_b² = (Σ_j ‖w_1j‖ d_bj ‖w_2j‖)², with columns of W_1 and rows of W_2, so that its relative error is a few ulps times
r_b²/‖J_b‖_F².
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..activations import activation_code, curvature
from ..errors import InputError
from ..products import add_matrix_product, matrix_product
from .mlp_kernels import _activate_both

if TYPE_CHECKING:
    from .mlp import MLP

Array = np.ndarray
_VOUCHED = 1e-4  # of ‖J_b‖_F² / r_b²: four digits may cancel
_LEAST, _MOST = 1e-70, 1e70  # of the largest weights, whose products with each other then keep all digits
_LEAST_SQUARE = 1e-200


Transpose = Callable[[Array], tuple[Array, Array]]


def frobenius_without_jacobian(
    field: MLP, t: float, y: Array, theta: Array, by_J: Callable[[Array], tuple[Array, Transpose]]
) -> tuple[Array, Transpose] | None:
    """‖J_b‖_F (B,) and its transpose by (1) and (2), in float64; by_J gives both for the samples whose sum cancels or is not finite.

    None where J takes less work or memory, or squares of the weights leave the range of floats.
    """
    batch, n = y.shape
    if len(field.sizes) != 3 or field.outer != "identity" or field.preactivation != "identity":
        return None
    h = field.sizes[1]
    if h * (4 * n + 2 * batch) >= 3 * batch * n * n or h * h > batch * n * n:
        return None
    parts = field.views(theta.astype(np.float64, copy=False))
    W1, W2 = parts["W1"], parts["W2"]
    if not all(_LEAST < np.abs(W).max() < _MOST for W in (W1, W2)):
        return None
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        z = matrix_product(y, W1) + (parts["b1"] + (t * parts["v1"] if "v1" in parts else 0.0))
        d, x, curve = np.empty_like(z), z.copy(), np.empty_like(z)
        code = activation_code(field.activation)
        _activate_both(code, x, z[0, :0], d.ravel())
        curvature(code, z.ravel(), x.ravel(), d.ravel(), curve.ravel())
        A, C = np.zeros((h, h)), matrix_product(W2, W2.T)
        add_matrix_product(W1, W1, A)
        Gd = matrix_product(d, A * C)
        squares = np.einsum("bj,bj->b", d, Gd)
        bound = (np.abs(d) @ np.sqrt(A.diagonal() * C.diagonal())) ** 2
    vouched = np.isfinite(bound) & (squares > _VOUCHED * bound) & (squares > _LEAST_SQUARE)
    if not vouched.any():
        return None
    all_norms, own, others = np.sqrt(squares, where=vouched, out=np.empty_like(squares)), y, None
    if not vouched.all():
        own, d, curve, Gd = y[vouched], d[vouched], curve[vouched], Gd[vouched]
        all_norms[~vouched], others = by_J(y[~vouched])
    norms = all_norms[vouched]

    def transpose(bar: Array) -> tuple[Array, Array]:
        bar = np.asarray(bar, np.float64)
        if bar.shape != vouched.shape:
            raise InputError(f"the cotangent must have shape {vouched.shape}, not {bar.shape}")
        s = (bar[vouched] / norms)[:, np.newaxis]
        M = np.zeros((h, h))
        add_matrix_product(s * d, d, M)
        z_bar = s * curve * Gd
        theta_bar = np.zeros(field.n_params)
        bars = field.views(theta_bar)
        bars["W1"][:] = matrix_product(W1, M * C)
        add_matrix_product(own, z_bar, bars["W1"])
        bars["W2"][:] = matrix_product(M * A, W2)
        bars["b1"][:] = z_bar.sum(axis=0)
        if "v1" in bars:
            bars["v1"][:] = t * bars["b1"]
        y_bar = matrix_product(z_bar, W1.T)
        if others is not None:
            parts_of_y, y_bar = y_bar, np.empty(y.shape)
            y_bar[vouched] = parts_of_y
            y_bar[~vouched], more = others(bar[~vouched])
            theta_bar += more
        return y_bar.astype(y.dtype, copy=False), theta_bar.astype(y.dtype, copy=False)

    return all_norms.astype(y.dtype, copy=False), transpose
