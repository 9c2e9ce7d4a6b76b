"""Weights and learning rates that change with the epoch, as `fit` counts them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frozen import field_of
from test_pointwise import NET

import adaptode as ao
from adaptode.errors import InputError

X, Y = np.random.default_rng(0).normal(size=(2, 10, 2))
LINE = ao.Linear(1.0, 0.0, 4)


def trained(weight, **options):
    seen = []
    objective = ao.Objective(field_of(NET), "mean_squared_error", penalties=[ao.JacobianNorm("frobenius", weight)])
    options = {"epochs": 3, "batch_size": 4, "rng": 0, "optimizer": ao.SGD(0.0), **options}
    result = ao.fit(objective, X, Y, params=NET.theta, callback=lambda info: seen.append((info.epoch, info.learning_rate, info.evaluation.parts)), **options)
    return result, seen


@pytest.mark.parametrize("drop_last, per_epoch", [(False, 3), (True, 2)])
def test_a_weight_is_constant_within_an_epoch(drop_last, per_epoch):
    _, seen = trained(ao.PerEpoch(LINE), drop_last=drop_last)
    _, plain = trained(1.0, drop_last=drop_last)
    assert len(seen) == 3 * per_epoch
    for (epoch, _, parts), (_, _, unweighted) in zip(seen, plain, strict=True):
        assert parts["frobenius"] == pytest.approx(LINE(epoch) * unweighted["frobenius"], rel=1e-12)


def test_a_learning_rate_too():
    _, seen = trained(0.0, optimizer=ao.SGD(ao.PerEpoch(ao.Exponential(0.1, 0.01, 2))))
    assert [rate for _, rate, _ in seen] == pytest.approx([0.1] * 3 + [0.1 * 10**-0.5] * 3 + [0.01] * 3)


def test_it_resumes_bit_for_bit(tmp_path):
    options = {"optimizer": ao.Adam(ao.PerEpoch(ao.Linear(0.1, 0.01, 3)))}
    whole, _ = trained(ao.PerEpoch(LINE), **options)
    trained(ao.PerEpoch(LINE), **options, epochs=None, steps=4, checkpoint=tmp_path)
    rest, seen = trained(ao.PerEpoch(LINE), **options, checkpoint=tmp_path, resume=True)
    assert len(seen) == 5
    np.testing.assert_array_equal(whole.params, rest.params)


def test_outside_of_fit_it_has_to_be_told_before_any_work():
    objective = ao.Objective(field_of(NET), "mean_squared_error", penalties=[ao.JacobianNorm("frobenius", ao.PerEpoch(LINE))])
    assert json.loads(json.dumps(objective.config())) == objective.config()

    def value(objective, step):
        return objective.value_and_grad(NET.theta, X, Y, rng=np.random.default_rng(0), step=step).parts["frobenius"]

    with pytest.raises(InputError, match="how many steps an epoch has"):
        value(objective, 0)
    assert value(objective.by_epochs(5), 7) == pytest.approx(0.75 * value(objective.by_epochs(5), 0), rel=1e-12)
    assert objective.steps_per_epoch is None
