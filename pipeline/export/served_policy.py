"""Answers of a policy on arrays of any batch size: what an exported model returns, with the shield called in Python."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from agents.dimensions import usable
from agents.exploration import greedy
from pipeline.acting.frame_stacks import newest, stacked
from pipeline.acting.network_program import Actor, TfliteActor, Weights, make_actor
from pipeline.environments.lanes.shield import load
from pipeline.experiment.sections import Experiment
from pipeline.export.directory import ExportedPolicy
from pipeline.export.interface import ACTION, MASK, NEXT_STATE, STATE, Interface

Arrays = dict[str, NDArray[Any]]
_LANES = (1, 16, 256)
"""Batch sizes of the actors, which are fixed; other batches are filled up with zeros."""


class NoAction(Exception):
    """Mask and shield leave no action of some row."""


class ServedPolicy:
    """Acts as collectors and evaluators do: through the published program, or TensorFlow where that is empty.

    Raises:
      UsageError: there is no such shield.
    """

    def __init__(self, exported: ExportedPolicy) -> None:
        experiment, interface, policy = exported
        self.interface = interface
        self._shield = load(interface.shield) if interface.shield else None
        self._specs = interface.specs
        specs, weights = stacked(self._specs, interface.frames), [array.numpy() for array in policy.weights]
        self._actors = [
            (lanes, _actor(experiment, interface, specs, lanes, policy.program, weights)) for lanes in _LANES
        ]

    def act(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs [B, ...] by name of inputs [B, ...] by name, in the dtypes of the interface; B is at least 1.

        The mask may be left out where the environment gives none.

        Raises:
          NoAction: of some row none is allowed.
        """
        interface = self.interface
        seen = interface.seen(inputs, np.asarray)
        scores, states = self.scores(seen, inputs.get(STATE))
        best = greedy(scores, self.allowed(seen, inputs.get(MASK)), interface.action_sizes)
        outputs: Arrays = {ACTION: interface.actions(best), interface.scores: scores}
        if states is not None:
            outputs[NEXT_STATE] = states
        return outputs

    def scores(
        self, seen: Arrays, state: NDArray[Any] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores float32 [B, actions], and the states that follow, of any number of rows as the agent sees them."""
        batch = len(next(iter(seen.values())))
        parts = []
        for start in range(0, batch, _LANES[-1]):
            rows = slice(start, min(start + _LANES[-1], batch))
            some = {leaf: array[rows] for leaf, array in seen.items()}
            parts.append(self._scores_of_some(some, None if state is None else state[rows]))
        scores = np.concatenate([part[0] for part in parts])
        return scores, None if state is None else np.concatenate([part[1] for part in parts])

    def _scores_of_some(
        self, seen: Arrays, state: NDArray[Any] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = len(next(iter(seen.values())))
        lanes, actor = next((lanes, actor) for lanes, actor in self._actors if lanes >= rows)
        if lanes > rows:
            seen = {leaf: _filled_up(array, lanes) for leaf, array in seen.items()}
        if state is not None:
            actor.state = _filled_up(state, lanes)
        return actor.q_values(seen)[:rows], actor.state[:rows]

    def allowed(self, seen: Arrays, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """bool [B, actions] of what mask and shield allow; None where neither forbids anything.

        Raises:
          NoAction: of some row none is allowed.
        """
        allowed = mask
        if self._shield is not None:
            by_shield = self._shield(self._specs.pack(newest(self._specs, self.interface.frames, seen)))
            allowed = by_shield if mask is None else by_shield & mask
        if allowed is not None and not (some := usable(allowed, self.interface.action_sizes)).all():
            raise NoAction(f"row {int(np.argmin(some))}: no action is allowed")
        return allowed


def _actor(
    experiment: Experiment | None, interface: Interface, specs: Specs, lanes: int, program: bytes, weights: Weights
) -> Actor:
    if experiment is None:  # its kind is not trusted; a program needs no code of it
        return TfliteActor(program, specs, lanes, weights, 1, interface.state_units)
    return make_actor(experiment.agent, specs, lanes, program, weights)


def _filled_up(array: NDArray[Any], rows: int) -> NDArray[Any]:
    full = np.zeros((rows, *array.shape[1:]), array.dtype)
    full[: len(array)] = array
    return full
