# %% [markdown]
# # One step and its transpose
#
# A solver is one step, repeated. Its gradient is the transpose of that step, repeated in the other direction. So all that is to be known about
# gradients of ODE solvers can be seen in a single step; here is one. Keys in brackets are those of `adaptode/references.bib`.

# %%
import matplotlib.pyplot as plt
import numpy as np

import adaptode as ao
from adaptode import plotting

print(ao.DOPRI5)

# %% [markdown]
# ## The step
# With coefficients $a_{ij}, b_i, c_i$, from $y_0$ at time $t$ over $h$ [HNW93, II.1]:
#
# $$ (1)\qquad Y_i = y_0 + h \sum_{j<i} a_{ij} K_j, \qquad K_i = f(t + c_i h,\, Y_i;\, \theta), \qquad y_1 = y_0 + h \sum_i b_i K_i . $$
#
# $f$ is a small network, and eight states are stepped at once. At a tolerance this loose the whole span is one step.

# %%
rng = np.random.default_rng(0)
field = ao.MLP((2, 16, 2), activation="tanh", time="every")
theta = field.init(rng, scale=2.0)
y0 = rng.normal(size=(8, 2))


def one_step(h, parameters=theta, start=y0):
    """A single step of Dopri5 from t = 0 over h, whatever its error."""
    return ao.solve(field, parameters, start, (0.0, h), method="Dopri5", first_step=h, rtol=1.0, atol=1.0, keep="stages")


h = 0.5
run = one_step(h)
print(run)
K = run.stages[0]  # (7, 16): seven stages of 8 · 2 numbers
assert len(run.steps) == 1
assert np.allclose(run.y1.ravel(), y0.ravel() + h * ao.DOPRI5.b @ K, rtol=1e-14), "the last line of (1)"

# %% [markdown]
# ## Its tangent
# Let $\theta$ move by a small $\dot\theta$. Every line of (1) moves with it, and to first order the motions obey the same lines, linearized:
#
# $$ (2)\qquad \dot Y_i = h \sum_{j<i} a_{ij} \dot K_j, \qquad \dot K_i = \frac{\partial f}{\partial y}\dot Y_i + \frac{\partial f}{\partial\theta}\dot\theta,
#    \qquad \dot y_1 = h \sum_i b_i \dot K_i . $$
#
# One direction $\dot\theta$ costs one more pass through the stages. `sensitivities` takes all of them: the full matrix $\partial y_1/\partial\theta$.

# %%
S = ao.adjoint.sensitivities(run)
print("∂y1/∂theta:", S.theta.shape, "- samples, components, parameters")
assert S.theta.shape == (8, 2, 100)

# %% [markdown]
# ## Its transpose
# A loss $L(y_1)$ has one gradient $\bar y_1 = \partial L/\partial y_1$, and what is wanted is one vector
# $\bar\theta = (\partial y_1/\partial\theta)^{\mathsf T}\,\bar y_1$: no matrix. Read (2) from its last line to its first, each product transposed:
#
# $$ (3)\qquad \bar K_i = h\,b_i\,\bar y_1 + h\sum_{j>i} a_{ji}\bar Y_j, \qquad
#    \bar Y_i = \Bigl(\frac{\partial f}{\partial y}\Bigr)^{\mathsf T}\bar K_i, \qquad
#    \bar\theta \mathrel{+}= \Bigl(\frac{\partial f}{\partial\theta}\Bigr)^{\mathsf T}\bar K_i, \qquad i = 7 \dots 1, $$
#
# and $\bar y_0 = \bar y_1 + \sum_i \bar Y_i$. That is `ao.adjoint.discrete`, whole. Is it the transpose? For any $\dot\theta$ and $\bar y_1$ the two
# must give the same number, $\langle \bar y_1, \dot y_1\rangle = \langle\bar\theta, \dot\theta\rangle$: the *dot test* [GW08, 3.1].

# %%
gap = ao.checks.dot_test(
    jvp=lambda theta_dot: S.theta @ theta_dot,
    vjp=lambda y_bar: ao.adjoint.discrete(run, y_bar).theta,
    shape_in=theta.shape,
    shape_out=y0.shape,
    rng=1,
)
print(f"dot test: {gap:.1e}")
assert gap < 1e-14

# %% [markdown]
# To write (3) as a Runge-Kutta method of its own, one would need its coefficients, $b_j a_{ji}/b_i$. Look at the tableau above: $b_2 = b_7 = 0$. That
# method does not exist; (3) does not divide, and does not mind.
#
# What did it cost? The field's linearization and its transpose, once at each of the six stages that $y_1$ depends on: 12 calls for 116 derivatives.

# %%
y_bar = rng.normal(size=y0.shape)
gradient = ao.adjoint.discrete(run, y_bar)
print(f"{gradient.evaluations} calls, {gradient.theta.size + gradient.y0.size} derivatives")
assert (ao.DOPRI5.b == 0).nonzero()[0].tolist() == [1, 6]
assert gradient.evaluations == 12
assert gradient.theta.size + gradient.y0.size == 116

# %% [markdown]
# ## The error estimate has a transpose too
# A second set of weights costs nothing more and gives a second, less accurate answer. Their difference is the error estimate; in units of the
# tolerance [HNW93, II.4],
#
# $$ (4)\qquad \mathrm{err} = h\sum_i e_i K_i, \qquad q = \Bigl(\tfrac1N \sum_k (\mathrm{err}_k/s_k)^2\Bigr)^{1/2}, \qquad
#    s_k = \mathrm{atol} + \mathrm{rtol}\,\max(|y_{0k}|, |y_{1k}|) . $$
#
# It is one more thing computed from the $K_i$, so it adds $h\,e_i\,\overline{\mathrm{err}}$ to $\bar K_i$ in (3), and the rest is as before. A loss
# may contain the solver's own error: notebook 3 is made of this. The check is a *Taylor test*: what is left of
# $q(\theta + \varepsilon d) - q(\theta) - \varepsilon\,\langle\bar\theta, d\rangle$ shrinks as $\varepsilon^2$, slope 2, if and only if $\bar\theta$
# is right.

# %%
of_error = ao.adjoint.discrete(run, np.zeros_like(y0), error_bar=[1.0])
direction = rng.normal(size=theta.shape)
test = ao.checks.taylor_test(lambda p: one_step(h, p).steps.error[0], of_error.theta @ direction, theta, direction)
print(f"q = {run.steps.error[0]:.2e}; Taylor test: slope {test.slope:.2f}")
assert abs(test.slope - 2) < 0.1

# %% [markdown]
# ## The exact gradient of a wrong number
# Now make the step absurdly long. The state that it computes is wrong: compare it with the flow, solved at $10^{-13}$. How wrong is the gradient?
#
# There are two answers, for there are two gradients. As the gradient of the flow it is wrong, like the state. But
# *as the gradient of the number that was computed* it has nothing to be wrong about: (3) knows no approximation. `check_gradients` compares with
# complex steps through the same arithmetic [ST98], good to the last digit.

# %%
lengths = 0.05 * 2.0 ** np.arange(7)
state_error, flow_gap, own_gap = [], [], []
for h in lengths:
    step = one_step(h)
    flow = ao.solve(field, theta, y0, (0.0, h), method="DOP853", rtol=1e-13, atol=1e-13)
    g, g_flow = (ao.adjoint.discrete(r, y_bar).theta for r in (step, flow))
    state_error.append(np.linalg.norm(step.y1 - flow.y1) / np.linalg.norm(flow.y1))
    flow_gap.append(np.linalg.norm(g - g_flow) / np.linalg.norm(g_flow))
    rows = ao.check_gradients(step, y_bar, adjoints=["discrete"]).rows
    own_gap.append(max(r.difference for r in rows if r.method == "discrete" and r.block not in ("t0", "t1")))
    print(f"h = {h:4.2f}: state off by {state_error[-1]:.1e}, gradient off the flow's by {flow_gap[-1]:.1e}, off its own by {own_gap[-1]:.1e}")

assert state_error[-1] > 0.2 and flow_gap[-1] > 0.2, "at h = 3.2 the state and the flow's gradient are off by more than a fifth"
assert max(own_gap) < 1e-12, "and its own gradient is right to twelve digits"

# %%
fig, ax = plotting.figure(size=(6.8, 4.2))
ax.loglog(lengths, state_error, "o-", color=plotting.PALETTE[0], label="state, against the flow's")
ax.loglog(lengths, flow_gap, "s-", color=plotting.PALETTE[1], label="gradient, against the flow's")
ax.loglog(lengths, own_gap, "^-", color=plotting.PALETTE[2], label="gradient, against its own number's")
ax.set(xlabel="length h of the one step", ylabel="relative difference", title="A step's gradient is exact, however wrong the step", ylim=(1e-17, 10))
ax.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.38))
plt.show()

# %% [markdown]
# At $h = 3.2$ the state is off by more than a fifth, and its gradient right to twelve digits. That is what *discrete* means in `adjoint.discrete`:
# training sees a consistent pair of value and gradient at any tolerance. Whether that number is worth differentiating is the tolerance's business.
# The other adjoints differentiate the flow instead: notebook 2.
