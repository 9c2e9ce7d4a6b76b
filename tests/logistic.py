"""A stand-in for a neural ODE's objective: logistic regression, its inputs jittered by the step's rng.

As a script it is a training to be killed: `python logistic.py FOLDER STEPS` trains with checkpoints, resuming.
"""

import sys

import numpy as np

from adaptode.training import Adam, Evaluation, LinearHead, binary_cross_entropy, fit


class Logistic:
    def __init__(self, n=3, jitter=0.1):
        self.head = LinearHead(n, 1)
        self.n_params = self.head.n_params
        self.jitter = jitter

    def init(self, rng):
        return self.head.init(rng)

    def config(self):
        return {"model": "logistic", "n": self.head.n_in, "jitter": self.jitter}

    def value_and_grad(self, params, X, y, *, rng, step):
        x = X + self.jitter * rng.normal(size=X.shape)
        task, out_bar = binary_cross_entropy(self.head.value(params, x), y)
        grad = self.head.vjp(params, x, out_bar)[1] + 1e-3 * params
        decay = 5e-4 * float(params @ params)
        return Evaluation(task + decay, grad, {"task": task, "decay": decay}, 7 + step % 3, 5, 0.5)


def data(n=50):
    rng = np.random.default_rng(8)
    X = rng.normal(size=(n, 3))
    return X, (X @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=n) > 0).astype(int)


SETTINGS = {"optimizer": Adam(0.05, weight_decay=0.01), "batch_size": 16, "rng": 3}


def train(folder=None, steps=40, objective=None, **options):
    X, y = data()
    return fit(objective or Logistic(), X, y, **{**SETTINGS, "steps": steps, "checkpoint": folder, **options})


if __name__ == "__main__":
    print("ready", flush=True)
    train(sys.argv[1], int(sys.argv[2]), checkpoint_every=3, resume=True)
