"""A model without a framework: any object with some of the interface's methods will do."""

import numpy as np

from dnnamo import Model


class LinearRegression(Model):
    """Least squares by gradient descent on 256 random points."""

    def __init__(self, features: int) -> None:
        random = np.random.default_rng(0)
        self._inputs = random.normal(size=(256, features))
        self._targets = self._inputs @ random.normal(size=features)
        self._weights = np.zeros(features)

    def get_weights(self, keys=None):
        return {"weights": self._weights}

    def run_inference(self, n_steps=1):
        return [self._inputs @ self._weights for _ in range(n_steps)]

    def run_training(self, n_steps=1):
        return [self._step() for _ in range(n_steps)]

    def _step(self):
        error = self._inputs @ self._weights - self._targets
        self._weights = self._weights - 0.1 * self._inputs.T @ error / len(error)
        return float(np.mean(error**2)), None


def __dnnamo_loader__(features: int = 8) -> LinearRegression:
    return LinearRegression(features)
