# %% [markdown]
# # A first look inside
#
# One neural ODE: its steps, the exact gradient of what was computed, and a local error penalty taken apart.
# Each cell prints what it claims; the last line of each is its check.

# %%
import numpy as np

import adaptode as ao

rng = np.random.default_rng(0)
field = ao.MLP((2, 32, 2), activation="tanh", time="every")
theta = field.init(rng, scale=3.0)
y0 = rng.normal(size=(64, 2))

# %% [markdown]
# ## The steps
# Every attempt is a row: where, how far, the error in units of the tolerance, the stiffness estimate, and whether it was kept.

# %%
run = ao.solve(field, theta, y0, (0.0, 1.0), method="Dopri5", rtol=1e-4, atol=1e-4, first_step=1.0)
print(run)
print(run.steps)
assert not run.steps.accepted[0], "a first step of the whole span is too long"

# %% [markdown]
# ## The gradient
# The discrete adjoint is the transpose of these very steps. On the same grid, a small change of θ changes the result by gradient · change, up to a
# remainder that shrinks with the square of the change: slope 2 in a Taylor test.

# %%
target = rng.normal(size=y0.shape)
gradient = ao.adjoint.discrete(run, run.y1 - target)


def loss_on_the_grid(parameters):
    """½‖y₁ − target‖², each accepted step taken as a fixed step of the same length."""
    y = y0
    for t0, t1 in zip(run.grid[:-1], run.grid[1:], strict=True):
        y = ao.solve(field, parameters, y, (t0, t1), method="Dopri5", first_step=abs(t1 - t0), rtol=1e3, atol=1e3).y1
    return 0.5 * ((y - target) ** 2).sum()


direction = rng.normal(size=theta.shape)
test = ao.checks.taylor_test(loss_on_the_grid, gradient.theta @ direction, theta, direction)
print(test)
assert abs(test.slope - 2) < 0.1

# %% [markdown]
# ## A local error penalty
# r = q |h| of one step at a random time. Its gradient opens that one step and nothing else; the solve keeps its own adjoint.

# %%
penalty = ao.LocalError(1.0, "biased", detach=())
term = penalty.evaluate(run, variate=0.5)
pulled = term.pull(1.0)
print(f"r = {term.value:.3e}, |theta_bar| = {np.linalg.norm(pulled.theta):.3e}, jump at t = {pulled.jumps[0][0]:.3f}")
accepted = run.accepted("error") * np.abs(run.accepted("h"))
assert np.isclose(accepted, term.value, rtol=1e-6).any(), "a biased sample repeats one of the solver's own steps"
