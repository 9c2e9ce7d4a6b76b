"""Solves of neural fields: a batch stepped jointly, everything the adjoints need kept."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from . import room
from .checked import check_finite, check_saveat, check_scale, check_span, check_steppable, check_steps, check_tolerances
from .control import Controller, get_controller
from .errors import InputError
from .fields.hidden import HiddenCoordinates, has_hidden, hidden_pays
from .fields.protocol import Array, Field
from .independent import RunBatch, solve_rows
from .integration import Integration
from .loop import SAVED
from .solution import Checkpoints, Run, explain
from .tableau import Tableau, get_tableau

_KEEP = {"none": frozenset(), "states": frozenset({"states"}), "stages": frozenset({"states", "stages"})}


def solve(
    field: Field,
    theta: ArrayLike,
    y0: ArrayLike,
    tspan: tuple[float, float],
    *,
    method: str | Tableau = "Tsit5",
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 1e-6,
    saveat: ArrayLike | None = None,
    controller: str | Controller | None = None,
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10_000,
    keep: str | int = "states",
    reservoirs: Collection[int] = (),
    batch: str = "joint",
    coordinates: str = "auto",
    copy: bool = True,
) -> Run | RunBatch:
    """Integrate y′ = f(t, y; θ) for a batch of states stepped jointly, every attempt logged.

    field      a Field: MLP, CompiledField, PythonField          theta    (P,) parameters
    y0         (B, n) float64 or float32 (anything else real becomes float64)
    tspan      (t0, t1), forwards or backwards                   saveat   (k,) output times in the order of integration; None: t1 alone
    method     "Tsit5", "Dopri5", "Dopri5_Shampine", "BS32", "DOP853", "RK4", "Euler" or a Tableau
    rtol, atol tolerances: scalars, or (n,) one a component; rtol dimensionless, atol in units of y
    controller "pi" (Hairer; the default), "scipy", "torchdiffeq", "ordinarydiffeq", "pid", or a Controller
    first_step length of the first step; None: Hairer's rule (one evaluation more). Fixed-step methods need it: it is their step
    max_steps  attempts, accepted or not, before giving up
    keep       "states" (what the adjoints need), "stages" (more memory, less recomputing), a number k (every k-th state: the discrete adjoint
               recomputes those between), or "none" (the first and the last)
    reservoirs seeds, each of which draws one accepted state strictly between the ends, all equally likely, whatever `keep` says: `run.held`
    coordinates "state", "hidden" or "auto": whether an MLP with a linear last layer is stepped in the coordinates of its last hidden layer, the same
               solve to rounding (docs/change-of-variables.md); "auto": where that takes fewer multiplications
    batch      "joint": one step size for all rows; "independent": each row its own, solved one after the other; returns a RunBatch
    copy       False: the run refers to theta and y0 themselves where they need no conversion, and they must stay as they are while it is in use

    "DOP853", of order 8, is for tight tolerances; a step with outputs between its ends takes three evaluations more than its twelve.
    One batch has one step size: the error norm is the RMS over all B n entries. A solve that cannot go on ends with a status and a message
    (`run.success` is False) and keeps what it has; an exception from the field passes through. InputError for arguments that make no sense.
    """
    tab = get_tableau(method)
    control = get_controller(controller)
    if not isinstance(field, Field):
        raise InputError(f"solve needs a field, not {type(field).__name__}: wrap a function f(t, y, theta) as adaptode.PythonField(f, n=...)")
    if batch != "joint":
        options = {"method": tab, "rtol": rtol, "atol": atol, "saveat": saveat, "controller": control, "first_step": first_step}
        options |= {"max_step": max_step, "max_steps": max_steps, "keep": keep, "coordinates": coordinates, "reservoirs": reservoirs, "copy": copy}
        return solve_rows(batch, solve, field, theta, y0, tspan, options)
    y0, theta = field.check(y0, theta)
    if copy:  # a run is a record: updating the caller's arrays in place must not change it
        y0, theta = room.copy(y0), room.copy(theta)
    rows, dtype = y0.shape[0], y0.dtype
    t0, t1 = check_span(tspan)
    times = check_saveat(saveat, t0, t1)
    tolerances = check_tolerances(rtol, atol, field.n, rows, dtype)
    check_finite(y0, theta)
    check_scale(y0, tolerances[0])
    every = check_keep(keep)
    check_steps(first_step, max_step, max_steps)
    check_steppable(tab, first_step)
    if not isinstance(reservoirs, Collection) or not all(isinstance(seed, Integral) and seed >= 0 for seed in reservoirs):
        raise InputError(f"reservoirs must be seeds, whole numbers of at least 0; got {reservoirs!r}")

    hidden = _hidden(coordinates, field, theta, y0, tab)
    start = np.zeros(hidden.size, dtype) if hidden else y0.ravel()
    wanted = times if times.size and times[-1] == t1 else np.append(times, t1)
    integration = Integration(
        hidden.bind() if hidden else field.bind(theta, rows, dtype),
        start,
        (t0, t1),
        tab,
        control,
        tolerances,
        saveat=wanted,
        max_step=max_step,
        max_steps=max_steps,
        keep=_KEEP[keep if isinstance(keep, str) else "states"],
        every=every,
    )
    integration.start(first_step)
    held = integration.run_holding(tuple(dict.fromkeys(reservoirs)))

    log, state, out = integration.log(), integration.state, integration.out
    saved = int(state.count[SAVED])
    status, grid = integration.status, integration.grid()

    def seen(x: Array) -> Array:
        return hidden.state(x) if hidden else x.reshape(*x.shape[:-1], rows, field.n)

    end = integration.lifted(out[saved - 1]) if hidden and saved == 1 else None  # the last norm was of it
    outputs = seen(out[:saved]) if end is None else end.reshape(1, rows, field.n)
    slope = None if status >= 0 else hidden.direction(state.K[0]) if hidden else seen(state.K[0])
    return Run(
        t=times[: min(saved, times.size)],
        y=outputs[: times.size],
        steps=log,
        grid=grid,
        nfev=integration.nfev,
        status=status,
        message=explain(status, log, integration.t, slope, field.name),
        field=field,
        theta=theta,
        tspan=(t0, t1),
        method=tab,
        atol=tolerances[0],
        rtol=tolerances[1],
        y0=y0,
        end=outputs[-1] if saved == out.shape[0] else seen(state.y.copy()),
        kept_states=integration.kept("states") if every == 1 else None,
        kept_stages=integration.kept("stages") if keep == "stages" and log.accepted.any() else None,
        kept_checkpoints=None if every == 1 else _checkpoints(start, integration, grid.size - 1, every),
        coordinates=hidden,
        held={seed: seen(y) for seed, y in held.items()},
    )


def _hidden(coordinates: str, field: Field, theta: Array, y0: Array, tab: Tableau) -> HiddenCoordinates | None:
    """The coordinates to solve in, or None for the state's own."""
    if coordinates not in ("auto", "state", "hidden"):
        raise InputError(f'coordinates must be "auto", "state" or "hidden"; got {coordinates!r}')
    if coordinates == "hidden" and not has_hidden(field):
        raise InputError(f'coordinates="hidden" needs an MLP with a hidden layer and a linear last one, without preactivation; got {field!r}')
    chosen = coordinates == "hidden" or (coordinates == "auto" and hidden_pays(field, tab.stages))
    return HiddenCoordinates(field, theta, y0) if chosen else None


def _checkpoints(y0: Array, integration: Integration, steps: int, every: int) -> Checkpoints:
    """Every `every`-th state (none: 0), the first and the last."""
    index = np.append(np.arange(0, steps, every or max(1, steps)), steps)
    states = integration.kept("states") if every else np.stack([y0, integration.state.y])[: index.size]
    return Checkpoints(every, index, states)


def check_keep(keep: str | int) -> int:
    """How many steps there are from one kept state to the next: 1 for all states, 0 for none but the first and the last; InputError for anything else."""
    if isinstance(keep, (int, np.integer)) and not isinstance(keep, bool) and keep > 0:
        return int(keep)
    if not isinstance(keep, str) or keep not in _KEEP:
        raise InputError(f'keep must be "states", "stages", "none", or k >= 1 to keep every k-th state; got {keep!r}')
    return 0 if keep == "none" else 1
