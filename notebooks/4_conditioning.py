# %% [markdown]
# # Conditioning: what κ does that a norm does not
#
# Besides the solver's error one may penalize the field's Jacobian $J = \partial f/\partial y$: its size, by a norm, or its shape, by the condition
# number κ [JB22]. What do the two ask of a flow, and do they get it? Keys in brackets are those of `adaptode/references.bib`.

# %%
import matplotlib.pyplot as plt
import numpy as np

import adaptode as ao
from adaptode import linalg, plotting

# %% [markdown]
# ## Size and shape
# Two nearby states, $d$ apart, separate at the rate $J d$. All $d$ of length 1 together give an ellipse with half-axes $\sigma_1 \ge \sigma_2$, the
# singular values of $J$ [GV13, 2.4]:
#
# $$ (1)\qquad \|J\|_F = \sqrt{\sigma_1^2 + \sigma_2^2}, \qquad \|J\|_2 = \sigma_1, \qquad \kappa = \frac{\sigma_1}{\sigma_2} . $$
#
# The norms are the ellipse's size. κ is its shape: 1 for a circle, ∞ for a line. In two dimensions it needs no singular values at all,
#
# $$ (2)\qquad \kappa + \frac1\kappa = \frac{\sigma_1^2 + \sigma_2^2}{\sigma_1\sigma_2} = \frac{\|J\|_F^2}{|\det J|} . $$

# %%
J = np.array([[[1.0, 2.0], [0.5, -0.6]]])
(size,), of_size = linalg.frobenius(J)
(kappa,), of_kappa = linalg.condition(J)
print(f"‖J‖_F = {size:.3f}, κ = {kappa:.3f}")
assert np.isclose(kappa, np.linalg.cond(J[0]))
assert np.isclose(kappa + 1 / kappa, size**2 / abs(np.linalg.det(J[0])))

# %% [markdown]
# ## What their gradients ask for
# Multiply $J$ by $c$. Then $\|cJ\| = c\,\|J\|$, but $\kappa(cJ) = \kappa(J)$. Differentiate both by $c$ at $c = 1$:
#
# $$ (3)\qquad \Bigl\langle \frac{\partial\|J\|}{\partial J}, J\Bigr\rangle = \|J\|, \qquad\qquad
#    \Bigl\langle \frac{\partial\kappa}{\partial J}, J\Bigr\rangle = 0 . $$
#
# The gradient of the Frobenius norm is $J/\|J\|_F$: going down it makes the ellipse smaller and leaves its shape alone. The gradient of κ is at a
# right angle to $J$: going down it rounds the ellipse, and at no point of the way is the first-order change a change of $\|J\|_F$.

# %%
bar = np.ones(1)
assert np.isclose((linalg.frobenius_vjp(of_size, bar) * J).sum(), size)
assert abs((linalg.condition_vjp(of_kappa, bar) * J).sum()) < 1e-12


def descend(value, vjp, J, length, count):
    """So many steps down the gradient, all of one length; every matrix on the way."""
    way = [J]
    for _ in range(count):
        G = vjp(value(way[-1])[1], bar)
        way.append(way[-1] - length * G / np.linalg.norm(G))
    return np.concatenate(way)


shrunk = descend(linalg.frobenius, linalg.frobenius_vjp, J, 0.05, 20)
rounded = descend(linalg.condition, linalg.condition_vjp, J, 0.05, 20)
for name, way in (("down the norm", shrunk), ("down κ", rounded)):
    sizes, shapes = linalg.frobenius(way)[0], linalg.condition(way)[0]
    print(f"{name:14} ‖J‖_F {sizes[0]:.2f} -> {sizes[-1]:.2f}, κ {shapes[0]:.2f} -> {shapes[-1]:.2f}")
assert np.allclose(linalg.condition(shrunk)[0], kappa) and linalg.frobenius(shrunk)[0][-1] < 0.6 * size
assert np.all(np.diff(linalg.frobenius(rounded)[0]) > 0) and linalg.condition(rounded)[0][-1] < 0.6 * kappa

# %%
angle = np.linspace(0.0, 2 * np.pi, 200)
circle = np.stack([np.cos(angle), np.sin(angle)])
fig, axs = plotting.figure(1, 2, size=(9.0, 4.4), sharex=True, sharey=True)
titles = ("Down the gradient of ‖J‖: smaller", "Down the gradient of κ: rounder")
for ax, way, title, color in zip(axs, (shrunk, rounded), titles, plotting.PALETTE[:2], strict=True):
    for matrix, shade in zip(way[::5], np.linspace(0.2, 1.0, len(way[::5])), strict=True):
        ax.plot(*(matrix @ circle), color=color, alpha=shade, lw=1.6)
    ax.set(title=title, aspect="equal")
plt.show()

# %% [markdown]
# ## κ does not see speed
# Take a flow and run it at another speed: $c f$ instead of $f$, over the same span. The solver has $c$ times as far to go. What do the two penalties
# notice?

# %%
field = ao.MLP((2, 32, 2), activation="tanh")
theta = field.init(3, scale=2.0)
y0 = np.random.default_rng(0).normal(size=(64, 2))
speeds, seen = (1.0, 4.0, 16.0), []
for c in speeds:
    run = ao.solve(ao.Scaled(field, c), theta, y0, (0.0, 1.0))
    norm = ao.JacobianNorm("frobenius", 1.0).evaluate(run, 0.0).value
    kappa = ao.ConditionNumber(1.0).evaluate(run, 0.0).value
    seen.append((run.nfev, norm, kappa))
    print(f"speed {c:4.0f}: {run.nfev:4d} evaluations   ‖J‖_F {norm:6.2f}   κ {kappa:.12f}")

costs, norms, kappas = np.array(seen).T
assert np.allclose(norms, norms[0] * np.array(speeds)) and np.allclose(kappas, kappas[0], rtol=1e-12)
assert costs[-1] > 3 * costs[0], "more than three times the evaluations, at the same κ"

# %% [markdown]
# More than three times the evaluations, and κ is the same to twelve digits. A penalty on κ cannot ask for a flow that is cheaper because it is
# slower: it has no word for slow. The gradient of the Frobenius norm has no other word.
#
# ## And in training?
# The moons once more: no penalty; the Frobenius norm, strongly and gently; κ, its weight growing over the first half. Every penalty is taken at the
# initial states, as its `at="start"` says.

# %%
X, y = ao.datasets.make_moons(300, noise=0.1, rng=0)
X_test, y_test = ao.datasets.make_moons(500, noise=0.1, rng=1)


def train(*penalties):
    """Evaluations, accuracy, ‖J‖_F and κ on the test samples, after 300 training steps."""
    objective = ao.Objective(field, "binary_cross_entropy", head=ao.LinearHead(2, 1), method="Tsit5", rtol=1e-4, atol=1e-4, penalties=penalties)
    params = ao.fit(objective, X, y, steps=300, batch_size=75, optimizer=ao.Adam(0.03), rng=0).params
    run = objective.solve(params, X_test)
    accuracy = ((objective.output(params, run).ravel() > 0) == y_test).mean()
    norm, kappa = (p.evaluate(run, 0.0).value for p in (ao.JacobianNorm("frobenius", 1.0), ao.ConditionNumber(1.0)))
    return run.nfev, float(accuracy), norm, kappa


rows = {
    "no penalty": train(),
    "‖J‖, λ = 1": train(ao.JacobianNorm("frobenius", 1.0)),
    "‖J‖, λ = 0.03": train(ao.JacobianNorm("frobenius", 0.03)),
    "κ, λ = 0.05": train(ao.ConditionNumber(ao.Linear(0.0, 0.05, 150), floor=0.02)),
}
print("                 NFE  accuracy   ‖J‖_F       κ")
for name, (nfe, accuracy, norm, kappa) in rows.items():
    print(f"{name:15} {nfe:4d}  {accuracy:8.1%}  {norm:6.2f}  {kappa:6.1f}")

none, strong, gentle, shaped = rows.values()
assert strong[2] < 0.1 and strong[1] < 0.92, "with a strong norm all samples move alike"
assert min(none[1], gentle[1], shaped[1]) > 0.97
assert gentle[0] < min(none[0], shaped[0]) and gentle[2] < none[2], "a gentle norm: the fewest evaluations of the accurate ones"
assert shaped[3] < 3 and shaped[3] < min(none[3], strong[3], gentle[3]), "κ: the roundest"

# %%
fig, axs = plotting.figure(1, 3, size=(10.0, 3.4), sharey=True)
columns = (("evaluations", 0), ("accuracy", 1), ("mean κ (logarithmic)", 3))
for ax, (title, column) in zip(axs, columns, strict=True):
    values = [row[column] for row in rows.values()]
    bars = ax.barh(list(rows), values, color=plotting.PALETTE[:4], alpha=0.85)
    ax.bar_label(bars, fmt="{:.0f}" if column == 0 else "{:.1%}" if column == 1 else "{:.1f}", padding=3)
    ax.set(title=title)
    ax.grid(axis="y", visible=False)
axs[0].set_xlim(0, 1.2 * none[0])
axs[1].set_xlim(0.5, 1.09)
axs[2].set_xscale("log")
axs[2].set_xlim(1.0, 6 * max(row[3] for row in rows.values()))
axs[0].invert_yaxis()
plt.show()

# %% [markdown]
# Read the rows against (3). The strong norm is obeyed to the letter: $\|J\|_F$ falls below 0.1, so $f$ is nearly the same at every state, the flow
# carries all samples along together, and what classifies is the linear head alone, below 92 %. That is not the price of a norm but of λ = 1: gently,
# it takes the fewest evaluations of all that learned the task. κ gets what it asks for as well, a Jacobian that favours no direction, below 3 where
# each of the others has more; and the flow keeps moving. If your reason is speed, ask the norm, or the solver (notebook 3). If it is that no
# direction of the input be lost beside another, that is what only κ does. One seed, 300 steps: `docs/results.md` has the tables, with what they leave
# open.
#
# ## Where κ does not exist
# A hidden layer narrower than the state gives $J$ a rank below its dimension: $\sigma_n = 0$ at every state, whatever the parameters. There is
# nothing to round, and you are told before any work is done.

# %%
try:
    ao.Objective(ao.MLP((3, 2, 3)), "mean_squared_error", penalties=[ao.ConditionNumber(0.1)])
except ao.SingularJacobianError as error:
    print(error)
else:
    raise AssertionError("an infinite condition number was accepted")
