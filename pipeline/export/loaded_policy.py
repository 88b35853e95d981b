"""A trained policy as a Python object, which `pipeline.load_policy` returns. No TensorFlow where TFLite runs it."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.exploration import greedy
from pipeline.acting.frame_stacks import FrameStack
from pipeline.environments import EnvironmentFault
from pipeline.environments.lanes.spaces import KINDS
from pipeline.evaluator.evaluation import Which, folder_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.export import directory
from pipeline.export.directory import ExportedPolicy
from pipeline.export.interface import Q_VALUES
from pipeline.export.served_policy import Arrays, NoAction, ServedPolicy
from pipeline.security import strangers


class GreedyPolicy:
    """Acts as the run's evaluations do: the best action by the network, of those that mask and shield allow.

    Observations are given as the environment returns them, one alone or a batch of them along a first axis; nests
    (dicts, tuples) have that axis in each of their arrays. What a policy with frame stacks or a recurrent network has
    seen before is kept from one call of `act` to the next, for each row of the batch: call `reset` where an episode
    begins.

    Args:
      exported: the policy, with all that is needed to act with it.
    """

    def __init__(self, exported: ExportedPolicy) -> None:
        self._experiment = exported.experiment
        self._served = ServedPolicy(exported)
        self._frames, self._specs = exported.interface.frames, exported.interface.specs
        self._one = msgspec.structs.replace(exported.interface, frames=1)  # the interface of one observation
        self._rows: int | None = None
        """Episodes that are remembered; None while none is."""
        self._stack: FrameStack | None = None
        self._state: NDArray[np.float32] | None = None
        self._begins = np.ones(0, np.bool_)
        self.environment_steps = exported.policy.environment_steps
        """That the run had taken when these weights were made."""
        self.gradient_steps = exported.policy.gradient_steps
        """Likewise."""
        self.mean_return = exported.policy.mean_return
        """Of the evaluation of these weights in the run."""

    @property
    def experiment(self) -> Experiment:
        """Of the run that trained it.

        Raises:
          UsageError: it cannot be read without importing code that is not trusted.
        """
        if self._experiment is None:
            raise UsageError("the config of this policy names code, which `trust=False` did not import to read it")
        return self._experiment

    @property
    def num_actions(self) -> int:
        """How many actions there are; of several dimensions the sum of their sizes: the width of masks and Q-values."""
        return self._one.num_actions

    def act(self, observation: Any, mask: Any = None) -> int | NDArray[np.int64]:
        """The best action, as the environment numbers it: an int, or int64 [B] of a batch of B observations.

        Of several dimensions it is an array of the action's shape, or [B, ...]; each dimension is chosen by itself.

        Args:
          observation: one, or a batch of them.
          mask: bool [actions], or [B, actions] of a batch: which actions are allowed. It may be left out where the
            environment gives none.

        Raises:
          UsageError: an observation is not of the environment's space, the mask is missing or of another shape, or mask
            and shield allow no action.
        """
        inputs, is_batch = self._inputs(observation)
        rows = len(next(iter(inputs.values())))
        allowed_by_mask = self._mask(mask, rows, is_batch)
        self._remember(rows)
        seen = self._seen(inputs, self._stack)
        scores, self._state = self._served.scores(seen, self._state_before())
        self._begins[:] = False
        try:
            allowed = self._served.allowed(seen, allowed_by_mask)
        except NoAction as error:
            raise UsageError(f"mask: {error}") from None
        actions = self._one.actions(greedy(scores, allowed, self._one.action_sizes))
        if is_batch:
            return actions
        one: NDArray[np.int64] = actions[0]
        return one if self._one.action_sizes else int(one)

    def q_values(self, observation: Any) -> NDArray[np.float32]:
        """Q-values float32 [actions], or [B, actions], whatever mask and shield allow; nothing is remembered.

        `policy.q_values(observation)` before `policy.act(observation)` are those that the action is chosen by.

        Raises:
          UsageError: see `act`; or the agent learns a policy, which has no Q-values.
        """
        if self._one.scores != Q_VALUES:
            kind = f"agent.kind={self._experiment.agent.kind!r}" if self._experiment else "its kind of agent"
            raise UsageError(f"{kind} learns a policy, which has no Q-values")
        inputs, is_batch = self._inputs(observation)
        self._remember(len(next(iter(inputs.values()))))
        seen = self._seen(inputs, copy.deepcopy(self._stack))
        scores, _ = self._served.scores(seen, self._state_before())
        of_one: NDArray[np.float32] = scores[0]
        return scores if is_batch else of_one

    def reset(self, rows: Any = None) -> None:
        """Begins new episodes: what was seen before is forgotten.

        Args:
          rows: bool [B], in which rows of the batch an episode begins; None is all, and the next batch may have
            another size.

        Raises:
          UsageError: the batches had another number of rows.
        """
        if rows is None:
            self._rows = None
            return
        begins = np.asarray(rows)
        if begins.dtype != np.bool_ or begins.shape != (self._rows,):
            have = "there has been no batch yet" if self._rows is None else f"the batches had {self._rows} rows"
            raise UsageError(f"rows is an array of bool, one for each row, and {have}; None begins all anew")
        self._begins |= begins

    def _inputs(self, observation: Any) -> tuple[Arrays, bool]:
        """Arrays [B, ...] by input name, in the environment's dtypes, and whether a batch was given."""
        arrays = {each.name: _part(observation, leaf) for leaf, each in self._one.leaves.items()}
        inputs: Arrays = {}
        batches: set[int | None] = set()
        for leaf, each in self._one.leaves.items():
            array, shape, what = arrays[each.name], each.spec.shape, f"observation {leaf}".strip()
            dtype = np.dtype(each.dtype)
            if array.dtype.kind not in KINDS.get(dtype.kind, ""):
                raise UsageError(f"{what} is of dtype {array.dtype}: the environment gives {dtype}")
            if array.shape == shape:
                batches.add(None)
                array = array[np.newaxis]
            elif array.shape[1:] == shape and array.ndim and len(array):
                batches.add(len(array))
            else:
                raise UsageError(f"{what} is of shape {array.shape}: it is {shape}, or {('B', *shape)} of a batch")
            inputs[each.name] = array
        if len(batches) > 1:
            raise UsageError("observation: its parts are not all of one observation, or of batches of one size")
        for name, (least, most) in self._one.bounds().items():
            if name in inputs and ((inputs[name] < least) | (inputs[name] > most)).any():
                wrong = inputs[name][(inputs[name] < least) | (inputs[name] > most)].flat[0]
                raise UsageError(f"{name}: {wrong} is not in {_range(least)} to {_range(most)}")
        return inputs, batches != {None}

    def _mask(self, mask: Any, rows: int, is_batch: bool) -> NDArray[np.bool_] | None:
        if mask is None:
            if self._one.masked:
                raise UsageError("mask is missing: the environment says which actions are allowed; give what it gives")
            return None
        wanted = (rows, self.num_actions) if is_batch else (self.num_actions,)
        try:
            array = np.asarray(mask)
        except ValueError:  # rows of several lengths
            raise UsageError(f"mask is no array: it is {wanted}, True where an action is allowed") from None
        if array.shape != wanted:
            raise UsageError(f"mask is of shape {array.shape}: it is {wanted}, True where an action is allowed")
        if array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
            raise UsageError("mask: True or 1 where an action is allowed, False or 0 elsewhere")
        return array.astype(np.bool_).reshape(rows, self.num_actions)

    def _remember(self, rows: int) -> None:
        """Begins to remember so many episodes, or refuses another number of them."""
        units = self._one.state_units
        if self._rows is None:
            self._rows, self._begins = rows, np.ones(rows, np.bool_)
            self._stack = FrameStack(self._specs, self._frames, rows) if self._frames > 1 else None
            self._state = np.zeros((rows, units), np.float32) if units else None
        elif rows != self._rows:
            if self._frames > 1 or units:
                raise UsageError(
                    f"observation: {rows} rows where there were {self._rows}, whose past the policy remembers: call "
                    "reset() first"
                )
            self._rows, self._begins = rows, np.ones(rows, np.bool_)

    def _seen(self, inputs: Arrays, stack: FrameStack | None) -> Arrays:
        """What the network sees of observations, by leaf name."""
        seen = self._one.seen(inputs, np.asarray)
        return seen if stack is None else stack.push(seen, self._begins)

    def _state_before(self) -> NDArray[np.float32] | None:
        return None if self._state is None else np.where(self._begins[:, np.newaxis], np.float32(0.0), self._state)


def _part(observation: Any, leaf: str) -> NDArray[Any]:
    """The array of a leaf, whose name is the path to it: "car/0"."""
    part, rest = observation, leaf
    while rest:
        if isinstance(part, Mapping):
            keys = [key for key in part if rest == str(key) or rest.startswith(f"{key}/")]
            if not keys:
                raise UsageError(f"observation: it has no part {leaf!r}, but {', '.join(map(repr, part))}")
            key = max(keys, key=lambda each: len(str(each)))
            part, rest = part[key], rest[len(str(key)) + 1 :]
        elif isinstance(part, tuple | list):
            index, _, rest = rest.partition("/")
            if not index.isdecimal() or int(index) >= len(part):
                raise UsageError(f"observation: it has no part {leaf!r}, but {len(part)} numbered from 0")
            part = part[int(index)]
        else:
            raise UsageError(f"observation: it is a {type(part).__name__} where it should have the part {leaf!r}")
    try:
        return np.asarray(part)
    except ValueError as error:
        raise UsageError(f"observation {leaf}".strip() + f": {error}") from None


def _range(bound: NDArray[Any]) -> str:
    return str(bound.flat[0]) if (bound == bound.flat[0]).all() else str(bound.tolist())


def load_policy(run: str | os.PathLike[str], *, policy: Which = "best", trust: bool = True) -> GreedyPolicy:
    """Loads the policy of a run, finished or going on, or an exported one.

    Args:
      run: the run's directory, a `pipeline.Run`, or the folder that `pipeline.export` wrote.
      policy: of the evaluations so far, the "best" or the "latest"; an export has one alone.
      trust: whether code that the config names is imported; see docs/security.md. An export of an agent without a
        shield needs none.

    Raises:
      UsageError: there is no such run or export, no policy yet, or the environment cannot be made; or it needs code
        that is not trusted.
    """
    folder = folder_of(run)
    if policy not in ("best", "latest"):
        raise UsageError(f"policy is 'best' or 'latest', not {policy!r}")
    with strangers.reading(folder, trust):
        if not directory.is_export(folder):
            try:
                return GreedyPolicy(directory.of_run(folder, policy))
            except EnvironmentFault as fault:
                raise UsageError(str(fault)) from None
        if policy == "latest":
            raise UsageError(f"{folder} is an export, which has one policy alone: leave policy='latest' out")
        return GreedyPolicy(directory.read(folder))
