"""Keeps a network able to learn: dormant units begin anew (ReDo), and dense layers now and then do, too.

For high replay ratios, where networks lose that (Nikishin et al. 2022; Sokar et al. 2023).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def dormant(activations: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which units of a layer are dormant, bool [units] (Sokar et al. 2023, definition 3.1 and equation 1).

    A unit's score is its mean absolute activation over the mean of all of its layer's; it is dormant if that is at most
    `threshold`. In a layer that is silent altogether all are.

    Args:
      activations: float32 [..., units].
      threshold: tau.
    """
    means = np.abs(activations).mean(axis=tuple(range(activations.ndim - 1)))
    scores = means / max(float(means.mean()), 1e-9)
    return np.asarray(scores <= threshold)


class Followed(NamedTuple):
    """A layer with weights, and those that take its units and nothing else."""

    layer: Any
    takers: list[Any]


def followed_layers(model: tf.keras.Model) -> list[Followed]:
    """The dense and convolutional layers whose units reach other such layers one by one, in the model's order.

    What lies between may keep or flatten the units; where units of several layers meet, as in residual blocks, those
    layers are left out.
    """
    takers: dict[int, list[Any]] = {}
    spoilt: set[int] = set()
    layers = _weighted(model)
    for taker in layers:
        source = _source(taker.input)
        if source is not None:
            takers.setdefault(id(source), []).append(taker)
    for layer in model.layers:  # what takes units in another way
        if layer not in layers and len(tf.nest.flatten(getattr(layer, "input", []))) > 1:
            spoilt |= {id(_source(tensor)) for tensor in tf.nest.flatten(layer.input)}
    return [Followed(layer, takers[id(layer)]) for layer in layers if id(layer) in takers and id(layer) not in spoilt]


def _weighted(model: tf.keras.Model) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, (tf.keras.layers.Dense, tf.keras.layers.Conv2D))]


def _source(tensor: Any) -> Any:
    """The dense or convolutional layer that a tensor comes from, by way of layers of one input; None if of none."""
    while (inputs := tensor.node.keras_inputs) and len(inputs) == 1:
        if isinstance(tensor.node.layer, (tf.keras.layers.Dense, tf.keras.layers.Conv2D)):
            return tensor.node.layer
        tensor = inputs[0]
    return None


def drawn_anew(layer: Any, seed: int) -> Floats:
    """Another draw of a layer's initial kernel."""
    initializer = layer.kernel_initializer
    again = type(initializer).from_config({**initializer.get_config(), "seed": seed})
    values: Floats = again(layer.kernel.shape).numpy()
    return values


class Plasticity:
    """Renews units or layers of an agent's online network, and forgets what its optimizer knows of them.

    Args:
      agent: a `DeepTdAgent`.
    """

    def __init__(self, agent: Any) -> None:
        self._agent, self._model = agent, agent._q_network.model
        self._followed = followed_layers(self._model)
        taken = [of.takers[0].input for of in self._followed]
        self._units_of = tf.keras.Model(self._model.input, taken) if taken else None

    def recycle(self, observation: Any, threshold: float, seed: int) -> int:
        """Lets dormant units begin anew (Sokar et al. 2023, algorithm 1); returns how many there were.

        Their incoming weights are drawn anew and their outgoing ones are 0, so that what the network says changes by no
        more than dormant units had said. The target network follows when it is next updated.

        Args:
          observation: the network's input, [B, ...].
          threshold: of `dormant`.
          seed: of the weights.
        """
        if self._units_of is None:
            return 0
        number = 0
        pairs = zip(self._followed, self._activations(observation), strict=True)
        for position, (of, units) in reversed(list(enumerate(pairs))):  # what a unit sends on stays 0
            count = int(of.layer.kernel.shape[-1])
            asleep = dormant(np.reshape(units, (-1, count)), threshold)
            number += int(asleep.sum())
            if not asleep.any():
                continue
            self._assign(
                of.layer.kernel, drawn_anew(of.layer, seed + position), np.broadcast_to(asleep, of.layer.kernel.shape)
            )
            self._assign(of.layer.bias, np.zeros(count, np.float32), asleep)
            for taker in of.takers:
                shape = tuple(taker.kernel.shape)
                rows = np.resize(asleep, shape[-2])  # of a flattened picture, each pixel has all units
                self._assign(taker.kernel, np.zeros(shape, np.float32), np.broadcast_to(rows[:, np.newaxis], shape))
        return number

    def reset(self, keep: float, seed: int) -> None:
        """Mixes new initial weights into all dense layers, and makes the target network the same.

        Nikishin et al. 2022 keep nothing; to keep a part is to shrink and perturb (Ash and Adams 2020).

        Args:
          keep: share of the old weights.
          seed: of the new ones.
        """
        layers = [layer for layer in _weighted(self._model) if isinstance(layer, tf.keras.layers.Dense)]
        for position, layer in enumerate(layers):
            fresh_ones: Any = (layer.kernel, drawn_anew(layer, seed + position)), (layer.bias, 0.0)
            for variable, fresh in fresh_ones:
                value = keep * variable.numpy() + (1.0 - keep) * fresh
                self._assign(variable, value, np.ones(variable.shape, np.bool_))
        online, target = self._agent._q_network.variables, self._agent._target_q_network.variables
        for of_target, value in zip(target, online, strict=True):
            of_target.assign(value.numpy())

    def _activations(self, observation: Any) -> Sequence[Floats]:
        inputs = [observation, *self._agent._q_network.silence(observation)]
        found = self._units_of(inputs if len(inputs) > 1 else observation)
        return [units.numpy() for units in (found if isinstance(found, list) else [found])]

    def _assign(self, variable: tf.Variable, value: Any, where: NDArray[np.bool_]) -> None:
        """Assigns `value` where it says so, and 0 to the optimizer's moments there."""
        variable.assign(np.where(where, value, variable.numpy()))
        for slot in self._slots(variable):
            slot.assign(np.where(where, 0.0, slot.numpy()))

    def _slots(self, variable: tf.Variable) -> Iterator[tf.Variable]:
        weights = self._agent._q_network.trainable_weights
        index = next(i for i, weight in enumerate(weights) if weight is variable)
        for slots in self._agent._optimizer._slots():
            yield slots[index]
