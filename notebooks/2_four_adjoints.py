# %% [markdown]
# # Four adjoints, one gradient, and where they part
#
# There are several ways home from the end of a solve to the gradient of what was reached. They agree, until they do not; and one of them does not say
# so. Keys in brackets are those of `adaptode/references.bib`; the derivations are in `docs/adjoints.md`.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np

import adaptode as ao
from adaptode import plotting

COLOR = dict(zip(("discrete", "interpolating", "quadrature", "backsolve"), plotting.PALETTE, strict=False))

# %% [markdown]
# ## Two gradients
# Let $y' = f(t, y; \theta)$ from $y_0$ to $t_1$, and $L$ a loss of $y(t_1)$. *Discretize, then differentiate*: the transpose of the computed steps,
# last to first (notebook 1). Or *differentiate, then discretize*: the gradient of the exact flow is itself the solution of a differential equation,
# backwards in time [Chen18],
#
# $$ (1)\qquad a' = -\Bigl(\frac{\partial f}{\partial y}\Bigr)^{\mathsf T} a, \quad a(t_1) = \frac{\partial L}{\partial y(t_1)}, \qquad\qquad
#    (2)\qquad \bar\theta = \int_{t_0}^{t_1} \Bigl(\frac{\partial f}{\partial\theta}\Bigr)^{\mathsf T} a\, dt, \qquad \bar y_0 = a(t_0). $$
#
# Both need $y(t)$ on the way home, and the four adjoints differ in where they have it from:
#
# | adjoint | differentiates | $y(t)$ | integral (2) |
# |---|---|---|---|
# | `discrete` | the computed numbers | the run's steps | is a sum |
# | `interpolating` | the flow | the run's dense output | solved with $a$ |
# | `quadrature` | the flow | the run's dense output | Gauss's rule, afterwards |
# | `backsolve` | the flow | solved backwards with $a$ | solved with $a$ |

# %%
rng = np.random.default_rng(0)
field = ao.MLP((2, 16, 2), activation="tanh")
theta = field.init(rng, scale=2.0)
y0, y_bar = rng.normal(size=(2, 8, 2))
run = ao.solve(field, theta, y0, (0.0, 2.0))
check = ao.check_gradients(run, y_bar)
print(check)
assert check.passed

# %% [markdown]
# ## One gradient
# `check_gradients` has just held every adjoint against complex steps, block by block. Which is the *right* gradient depends on the question. Against
# the gradient of the computed numbers, found by `forward` sensitivities without transposing a step, `discrete` is exact to twelve digits at every
# tolerance. Against the gradient of the flow, all four come within ten tolerances.

# %%
fine = ao.solve(field, theta, y0, (0.0, 2.0), method="DOP853", rtol=1e-13, atol=1e-13)
of_flow = ao.adjoint.discrete(fine, y_bar).theta
tolerances = 10.0 ** -np.arange(2, 11, 2)
from_numbers, from_flow = {name: [] for name in COLOR}, {name: [] for name in COLOR}
for tolerance in tolerances:
    run = ao.solve(field, theta, y0, (0.0, 2.0), rtol=tolerance, atol=tolerance)
    of_numbers = ao.adjoint.forward(run, y_bar).theta
    for name in COLOR:
        g = ao.adjoint.ADJOINTS[name](run, y_bar).theta
        from_numbers[name].append(np.linalg.norm(g - of_numbers) / np.linalg.norm(of_numbers))
        from_flow[name].append(np.linalg.norm(g - of_flow) / np.linalg.norm(of_flow))

assert max(from_numbers["discrete"]) < 1e-12
print("relative differences at the tolerances 1e-2 and 1e-10")
for name in COLOR:
    (a, *_, b), (c, *_, d) = from_numbers[name], from_flow[name]
    print(f"{name:13}  from the computed numbers' {a:.0e}, {b:.0e}   from the flow's {c:.0e}, {d:.0e}")
    assert np.all(np.array(from_flow[name]) < 10 * tolerances)

# %%
fig, axs = plotting.figure(1, 2, size=(9.6, 3.9), sharey=True)
for ax, gaps, title in zip(axs, (from_numbers, from_flow), ("against the computed numbers'", "against the flow's"), strict=True):
    for name, values in gaps.items():
        ax.loglog(tolerances, values, marker="o", ms=4, color=COLOR[name], label=name)
    ax.set(xlabel="tolerance of the run and of the adjoint", title=title)
    ax.invert_xaxis()
axs[0].set_ylabel("relative difference of the gradient")
axs[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Where they part
# Van der Pol's oscillator, $x'' = \mu(1 - x^2)x' - x$: every trajectory but the one at rest is drawn to one cycle. Backwards in time, every one is
# pushed away from it. As a field with one parameter, in plain NumPy:


# %%
def value(t, y, theta):
    x, v = y.T
    return np.stack([v, theta[0] * (1 - x**2) * v - x], axis=1)


def vjp(t, y, theta, w):
    (x, v), (a, b) = y.T, w.T
    return np.stack([-b * (2 * theta[0] * x * v + 1), a + b * theta[0] * (1 - x**2)], axis=1), [b @ ((1 - x**2) * v)]


oscillator = ao.PythonField(value, n=2, n_params=1, vjp=vjp)
mu, start, span, x_end = [2.0], [[2.0, 0.0]], (0.0, 10.0), np.array([[1.0, 0.0]])

run = ao.solve(oscillator, mu, start, span)
back = ao.solve(oscillator, mu, run.y1, span[::-1])
print("forwards from", start[0], "to", run.y1[0].round(4))
print("and back to  ", back.y1[0].round(4), "-", back.message)
assert back.success and np.abs(back.y1 - start).max() > 1.5

# %% [markdown]
# The way back succeeded, every step within the tolerance of $10^{-6}$, and arrived somewhere else. Forwards, the flow shrinks small distances across
# the cycle by the smaller singular value of $\partial y(10)/\partial y_0$, less than $10^{-11}$; backwards it magnifies every error by as much,
# whatever the solver. `backsolve` needs that $y(t)$. It stores nothing, and this is the price: here is $\partial x(10)/\partial\mu$ by all four, at
# two tolerances.

# %%
shrinks = np.linalg.svd(ao.adjoint.sensitivities(run).y0[0])[1].min()
print(f"across the cycle, distances shrink by {shrinks:.0e}\n")
assert shrinks < 1e-11

exact = ao.adjoint.discrete(ao.solve(oscillator, mu, start, span, method="DOP853", rtol=1e-13, atol=1e-13), x_end).theta[0]
off = {}
for tolerance in (1e-6, 1e-9):
    run = ao.solve(oscillator, mu, start, span, rtol=tolerance, atol=tolerance)
    for name in COLOR:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            g = ao.adjoint.ADJOINTS[name](run, x_end)
        assert [w.category for w in caught] == ([ao.DriftWarning] if name == "backsolve" else [])
        off[name, tolerance] = abs(g.theta[0] / exact - 1)
        drift = "" if g.drift is None else f"   drift {g.drift:.0e} tolerances"
        print(f"{tolerance:.0e}  {name:13} ∂x/∂μ = {g.theta[0]:9.6f}, off by {off[name, tolerance]:.0e}{drift}")

assert all(off[name, 1e-6] < 1e-4 and off[name, 1e-9] < 1e-7 for name in COLOR if name != "backsolve")
assert off["backsolve", 1e-6] > 1 and off["backsolve", 1e-9] > 0.1, "more than 100 %; a tolerance a thousand times smaller: still more than 10 %"

# %% [markdown]
# A gradient that is wrong by more than 100 %, from a solve that reports success, of a system from a first course; and a tolerance a thousand times
# smaller leaves more than 10 %. The sign is `drift`: by how much the reconstructed states missed the ones that are known, in units of the
# tolerance. Far above 1, the gradient belongs to another trajectory; where they are a hundredth off, a `DriftWarning` says so.
#
# The mend is to give it more states that are known: wherever an output was saved, `backsolve` starts again from it. Twenty-one saved states are
# enough for three digits.

# %%
run = ao.solve(oscillator, mu, start, span, saveat=np.linspace(*span, 21))
bars = np.zeros(run.y.shape)
bars[-1] = x_end  # the loss sees the last output alone; the others only hold y to its path
mended = ao.adjoint.backsolve(run, bars)
print(f"∂x/∂μ = {mended.theta[0]:.6f}, off by {abs(mended.theta[0] / exact - 1):.0e}, drift {mended.drift:.0e}")
assert abs(mended.theta[0] / exact - 1) < 1e-3

# %%
fig, axs = plotting.figure(1, 2, size=(9.6, 4.0))
there, here = run.sol(np.linspace(0.0, 10.0, 600))[:, 0], back.sol(np.linspace(10.0, back.grid[-1], 600))[:, 0]
axs[0].plot(*there.T, color=plotting.PALETTE[0], lw=1.8, label="forwards")
axs[0].plot(*here.T, color=plotting.PALETTE[1], lw=1.4, ls="--", label="backwards, from its end")
axs[0].plot(*start[0], "o", color=plotting.PALETTE[0], label="start")
axs[0].plot(*back.y1[0], "X", ms=9, color=plotting.PALETTE[1], label="where backwards arrives")
axs[0].set(xlabel="x", ylabel="x′", title="The same flow there and back, tolerance 1e-6")
axs[0].legend(frameon=False, loc="upper left", fontsize=8.5)
names = list(COLOR)
for shift, (tolerance, shade) in enumerate(((1e-6, 1.0), (1e-9, 0.45))):
    places = np.arange(4) + 0.38 * (shift - 0.5)
    axs[1].bar(places, [off[name, tolerance] for name in names], 0.36, color=[COLOR[n] for n in names], alpha=shade, label=f"tolerance {tolerance:g}")
axs[1].set_yscale("log")
axs[1].set_xticks(range(4), names)
axs[1].set(ylabel="relative error of ∂x(10)/∂μ", title="dark: tolerance 1e-6, light: 1e-9")
axs[1].axhline(1.0, color="#808080", ls="--", lw=1)
plt.show()

# %% [markdown]
# ## Which one
# `discrete`, unless memory forbids: it is exact for what was computed, and can live with fewer stored states (`solve(..., keep=k)`, then `budget=`),
# to the same bits. `interpolating` and `quadrature` where the flow's own gradient is wanted. `backsolve` where the flow does not contract, and then
# with an eye on `drift`. What each keeps, for a larger network:

# %%
large = ao.MLP((64, 128, 64))
run = ao.solve(large, large.init(0, scale=3.0), rng.normal(size=(128, 64)), (0.0, 10.0))
report = ao.memory_report(run)
print(report)
