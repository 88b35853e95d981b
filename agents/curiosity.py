"""Adds a reward for observations that a network cannot predict yet: random network distillation. Pure NumPy."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.novelty import Scale
from agents.specs import Specs

Floats = NDArray[np.float32]
Layers = list[Floats]

_HIDDEN, _FEATURES = 64, 32
_LARGEST_INPUT = 5.0
"""In deviations (Burda et al. 2018, section 2.4)."""
_STEP_SIZE = 1e-3
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def initial_layers(widths: tuple[int, ...], random: np.random.Generator) -> Layers:
    """Layers between so many units: of each a kernel, by He's normal distribution, and a bias of zeros."""
    layers: Layers = []
    for inputs, units in pairwise(widths):
        layers += [random.normal(0.0, (2.0 / inputs) ** 0.5, (inputs, units)).astype(np.float32)]
        layers += [np.zeros(units, np.float32)]
    return layers


def forward(layers: Layers, inputs: Floats) -> list[Floats]:
    """What each layer puts out, of inputs [lanes, n]: a ReLU behind all but the last."""
    outputs = [inputs]
    for position in range(0, len(layers), 2):
        linear = outputs[-1] @ layers[position] + layers[position + 1]
        outputs.append(linear if position == len(layers) - 2 else np.maximum(linear, 0.0))
    return outputs


def gradients(layers: Layers, outputs: list[Floats], slope: Floats) -> Layers:
    """The gradient of every layer for the slope [lanes, units] of a loss by the last outputs of `forward`."""
    found: Layers = []
    for position in reversed(range(0, len(layers), 2)):
        below = outputs[position // 2]
        found = [below.T @ slope, slope.sum(axis=0), *found]
        slope = (slope @ layers[position].T) * (below > 0.0)
    return found


class PredictionBonus:
    """Pays for what a predictor errs by, scaled by its running deviation (Burda et al. 2018, sections 2.2 to 2.4).

    The predictor learns, from every observation once, what a network of random weights puts out; on what it has seen
    often it errs little. Features are scaled by those seen first, as `agents.novelty` has it. Each collector has a
    predictor of its own, and begins anew when it is restarted.

    Args:
      specs: of the environment.
      scale: reward of an error as large as the deviation of all.
      seed: of the weights.
    """

    def __init__(self, specs: Specs, scale: float, seed: int) -> None:
        self._leaves, self._reward = specs.leaves(), scale
        width = sum(
            sum(largest + 1 for largest in spec.maximum) if spec.dtype == "int32" else int(np.prod(spec.shape))
            for spec in self._leaves.values()
        )
        random = np.random.default_rng(seed)
        widths = (width, _HIDDEN, _FEATURES)
        self._target, self._predictor = initial_layers(widths, random), initial_layers(widths, random)
        self._moments = [[np.zeros_like(part) for part in self._predictor] for _ in _BETAS]
        self._scale, self._updates = Scale(), 0
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def __call__(self, observation: Mapping[str, NDArray[Any]]) -> Floats:
        """Learns from what every lane sees and returns its bonus.

        Args:
          observation: by leaf name, [lanes, ...].

        Returns:
          float32 [lanes]; zeros while the scales of the features are being measured.
        """
        features = self._features(observation)
        if not self._scale.is_known:
            self._scale.measure(features)
            return np.zeros(len(features), np.float32)
        inputs = np.clip(self._scale(features), -_LARGEST_INPUT, _LARGEST_INPUT).astype(np.float32)
        outputs = forward(self._predictor, inputs)
        difference = outputs[-1] - forward(self._target, inputs)[-1]
        errors = np.square(difference).mean(axis=1)
        self._learn(gradients(self._predictor, outputs, difference * (2.0 / difference.size)))
        bonus: Floats = (self._reward * errors / self._deviation(errors)).astype(np.float32)
        return bonus

    def _features(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Float64 [lanes, features]: numbers as they are, categories as one-hot vectors."""
        columns = []
        for name, spec in self._leaves.items():
            flat = np.reshape(observation[name], (len(observation[name]), -1))
            if spec.dtype == "int32":
                columns += [np.eye(n + 1)[flat[:, j]] for j, n in enumerate(spec.maximum)]
            else:
                columns.append(flat.astype(np.float64))
        return np.concatenate(columns, axis=1)

    def _deviation(self, errors: Floats) -> float:
        """The deviation of all errors so far (Welford 1962)."""
        for error in errors.tolist():
            self._count += 1
            distance = error - self._mean
            self._mean += distance / self._count
            self._squares += distance * (error - self._mean)
        return max(math.sqrt(self._squares / self._count), _EPSILON)

    def _learn(self, slopes: Layers) -> None:
        """One step of Adam (Kingma and Ba 2015, algorithm 1)."""
        self._updates += 1
        corrections = [1.0 - beta**self._updates for beta in _BETAS]
        for part, slope, first, second in zip(self._predictor, slopes, *self._moments, strict=True):
            first += (1.0 - _BETAS[0]) * (slope - first)
            second += (1.0 - _BETAS[1]) * (np.square(slope) - second)
            part -= _STEP_SIZE * (first / corrections[0]) / (np.sqrt(second / corrections[1]) + _EPSILON)
