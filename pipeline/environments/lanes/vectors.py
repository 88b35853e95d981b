"""Lanes of environments with gymnasium's interface, which vectorise themselves or are stepped one after the other."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import SyncVectorEnv

from pipeline.environments.lanes.contract import closing
from pipeline.environments.lanes.spaces import Getter, Misfit, harmless_dtypes, leaves_of, of_vectors
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime import signs_of_life

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Wrapper[Any, Any, Any, Any]]


def gymnasium_vector(
    config: EnvironmentConfig, lanes: int, suite_wrappers: Sequence[Wrap] = (), *, render: bool = False
) -> Any:
    """Lanes of a registered environment or of a class, vectorised as the config says.

    Args:
      config: the environment.
      lanes: stepped in lockstep.
      suite_wrappers: put around each lane, the innermost first.
      render: whether they are to draw.

    Raises:
      UsageError: it does not exist, or its settings contradict each other.
      NotRendered: it does not draw.
    """
    spec = _spec(config)
    if render:
        from pipeline.environments.lanes.rendering import ask_for_pictures

        ask_for_pictures(spec, config.import_path.partition(":")[2] or config.id)
    skip, limit = config.frame_skip or 1, config.max_episode_steps or None
    mode = config.vectorization
    if mode == "auto":  # one lane has nothing to vectorise: stepping the environment itself costs a third
        own = spec.vector_entry_point is not None and (lanes > 1 or spec.entry_point is None)
        mode = "vector_entry_point" if own and skip == 1 and limit is None and not config.discretize else "sync"
    if mode == "vector_entry_point":
        if skip > 1 or limit or config.discretize:
            raise UsageError(
                f"environment {spec.id!r} vectorises itself, where frames are not skipped nor episodes cut nor actions "
                "discretised: set environment.vectorization='sync', or frame_skip=0, max_episode_steps=0, discretize=0"
            )
        vector = gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode)
        if isinstance(own_loop := vector.unwrapped, SyncVectorEnv):
            from pipeline.environments.lanes.wrappers import Copies

            own_loop._env_obs = Copies(own_loop._env_obs)
        return vector
    if limit:
        spec.max_episode_steps = limit
    wrappers: list[Wrap] = [*suite_wrappers]
    if config.discretize:
        from pipeline.environments.interfaces.action_spaces import Discretized

        wrappers.append(functools.partial(Discretized, points=config.discretize))
    if skip > 1:
        from pipeline.environments.lanes.wrappers import FrameSkip

        wrappers.append(functools.partial(FrameSkip, frames=skip, mask_key=config.mask_key))
    if mode == "async":
        from pipeline.environments.lanes.wrappers import ContractCheck, ending_with_collector

        wrappers += [ContractCheck, ending_with_collector]
        return gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode, wrappers=wrappers)

    def make_one() -> gymnasium.Env[Any, Any]:
        environment: gymnasium.Env[Any, Any] = gymnasium.make(spec)
        for wrap in wrappers:
            environment = wrap(environment)
        return environment

    return SerialVectorEnv([make_one] * lanes)


def _spec(config: EnvironmentConfig) -> EnvSpec:
    if config.import_path:
        from pipeline.environments.interfaces.custom import spec_of_class

        if (own := spec_of_class(config)) is not None:
            return own
    spec = _registered(config.id)
    spec.kwargs = {**spec.kwargs, **config.kwargs}
    entry_point = spec.entry_point
    if entry_point is not None and not str(entry_point).startswith(("gymnasium.", "pipeline.")):
        from pipeline.environments.interfaces.custom import adapted

        creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        spec.entry_point = adapted(creator, config.id, not config.mask_key)
    return spec


def _registered(environment_id: str) -> EnvSpec:
    """A copy of what is registered by that id: the registry's own must not get our arguments."""
    try:
        return copy.deepcopy(gymnasium.spec(environment_id))
    except gymnasium.error.Error as error:
        from pipeline.environments.interfaces.custom import of_gym

        if entry_point := of_gym(environment_id):
            return EnvSpec(environment_id, entry_point=entry_point)
        raise UsageError(f"no environment {environment_id!r}: {one_line(str(error))}") from None


def one_line(text: str) -> str:
    """A message without its line breaks."""
    return " ".join(text.split())


class _Leaf:
    """Where the lanes' values of one part of their observations go.

    Args:
      name: of the part.
      space: of the part.
      get: takes it from an observation.
      rows: array [lanes, ...] of the space's dtype.
    """

    def __init__(self, name: str, space: spaces.Space[Any], get: Getter, rows: Any) -> None:
        self.name, self.get, self.rows, self.shape, self._space = name, get, rows, space.shape, space
        self.dtype, self.usual = space.dtype, harmless_dtypes(space)

    def refuse(self, row: Any) -> None:
        """Raises Misfit if a value cannot be taken, of another shape or dtype than usual."""
        from pipeline.environments.lanes.wrappers import misfit

        if wrong := misfit(self._space, row):
            raise Misfit(f"{self.name}: {wrong}" if self.name else wrong)


_NUMBERS = frozenset((float, int, np.float64, np.float32))
"""Types of usual rewards."""


class SerialVectorEnv(SyncVectorEnv):
    """gymnasium's `SyncVectorEnv` with a leaner step: of the 15 us that it takes with one CartPole, half were its own.

    A step's arrays are valid until the next one, and of the environments' infos it passes on `action_mask` alone. What
    an environment returns is copied before another one is stepped: they may share it. What goes wrong in one lane
    leaves the others alone: it is in `faults`, and `renew` begins that lane anew.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        super().__init__([functools.partial(_made, make, lane) for lane, make in enumerate(env_fns)], copy=False)
        self._makers = list(env_fns)
        self._rewards: Any = np.zeros(self.num_envs, np.float32)
        rows: Any = self._observations
        space = self.single_observation_space
        self._leaves = [_Leaf(name, part, get, get(rows)) for name, part, get in leaves_of(space)]
        self._bare = self._leaves[0] if isinstance(space, spaces.Box) else None
        self._masks: dict[int, Any] = {}  # by lane
        self.ended_infos: dict[int, Any] = {}
        """Of the lanes whose episode the newest step ended."""
        self._flat = of_vectors(self.single_action_space, "flat_mask")
        self.newest_info: dict[str, Any] = {}
        """Of the lane that was reset or stepped last, for the check before a run."""
        self.faults: dict[int, str] = {}
        """What went wrong in the newest step, by lane. Such a lane has the observation before, and earned nothing."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every lane, each with a seed of its own; `faults` are of this."""
        self.faults.clear()
        self._masks.clear()
        seeds = seed if isinstance(seed, list) else [seed if seed is None else seed + n for n in range(self.num_envs)]
        for lane, own_seed in enumerate(seeds):
            self._begin(lane, own_seed, options)
        return self._observations, self._infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every environment; one whose episode has ended is reset instead (`AutoresetMode.NEXT_STEP`)."""
        if self.faults:
            self.faults.clear()
        self._masks.clear()
        self.ended_infos.clear()
        if not isinstance(actions, np.ndarray):  # of a Tuple or Dict space
            actions = gymnasium.vector.utils.iterate(self.action_space, actions)
        ended = self._autoreset_envs
        reward: Any
        place = signs_of_life.enter(signs_of_life.STEPPING)
        info: Any
        for lane, (environment, action) in enumerate(zip(self.envs, actions, strict=True)):
            place[1] = lane
            try:
                if ended[lane]:
                    place[0] = signs_of_life.RESETTING
                    observation, info = environment.reset()
                    place[0] = signs_of_life.STEPPING
                    reward, terminated, truncated = 0.0, False, False
                else:
                    observation, reward, terminated, truncated, info = environment.step(action)
                    if type(reward) not in _NUMBERS or type(terminated) is not bool or type(truncated) is not bool:
                        from pipeline.environments.lanes.wrappers import checked_outcome

                        reward, terminated, truncated = checked_outcome(reward, terminated, truncated)
                if type(info) is not dict:
                    from pipeline.environments.lanes.wrappers import checked_info

                    info = checked_info(info)
                self._rewards[lane] = reward
                self._terminations[lane] = terminated
                self._truncations[lane] = truncated
                ended[lane] = terminated or truncated
                if ended[lane]:
                    self.ended_infos[lane] = info
                self._keep(lane, observation)
                self.newest_info = info
                if "action_mask" in info:
                    self._keep_mask(lane, info["action_mask"])
            except (UsageError, KeyboardInterrupt):  # it has another interface than it seemed to have
                raise
            except BaseException as error:  # whatever a lane's environment raises, sys.exit() too, is that lane's alone
                self._give_up(lane, error)
        return self._observations, self._rewards, self._terminations, self._truncations, self._infos()

    def close_extras(self, **_: Any) -> None:
        """Closes every environment; what one raises keeps no other open."""
        for lane, environment in enumerate(self.envs):
            with closing(f"lane {lane}"):
                environment.close()

    def renew(self, lanes: Sequence[int], seeds: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        """Closes these lanes' environments, makes them anew and begins an episode in each; `faults` are of this.

        Returns:
          The observations of all lanes, and the infos of the new ones.
        """
        self.faults.clear()
        self._masks.clear()
        for lane, seed in zip(lanes, seeds, strict=True):
            try:
                with closing(f"lane {lane}"):
                    self.envs[lane].close()
                self.envs[lane] = _made(self._makers[lane], lane)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # see `step`
                self._give_up(lane, error)
            else:
                self._begin(lane, seed)
        return self._observations, self._infos()

    def _begin(self, lane: int, seed: int | None, options: dict[str, Any] | None = None) -> None:
        self._autoreset_envs[lane] = False
        info: Any
        try:
            with signs_of_life.in_call(signs_of_life.RESETTING, lane):
                observation, info = self.envs[lane].reset(seed=seed, options=options)
            if type(info) is not dict:
                from pipeline.environments.lanes.wrappers import checked_info

                info = checked_info(info)
            self._keep(lane, observation)
            self.newest_info = info
            if "action_mask" in info:
                self._keep_mask(lane, info["action_mask"])
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # see `step`
            self._give_up(lane, error)

    def _infos(self) -> dict[str, Any]:
        """The lanes' masks, where any has one."""
        return {"action_mask": [self._masks.get(lane) for lane in range(self.num_envs)]} if self._masks else {}

    def _give_up(self, lane: int, error: BaseException) -> None:
        self.faults[lane] = str(error) if isinstance(error, Misfit) else f"it raised {error!r}"
        self._masks.pop(lane, None)
        self._rewards[lane] = 0.0
        self._terminations[lane] = self._truncations[lane] = self._autoreset_envs[lane] = False

    def _keep_mask(self, lane: int, mask: Any) -> None:
        if mask is not None:
            try:
                self._masks[lane] = np.array(mask if self._flat is None else self._flat(mask))
            except ValueError as error:  # of rows of several lengths
                raise Misfit(f"info['action_mask'] is no array ({error})") from None

    def _keep(self, lane: int, observation: Any) -> None:
        """Copies what a lane observes into its rows."""
        if self._bare is not None:
            leaf, row = self._bare, np.asarray(observation)
            if row.shape != leaf.shape or (row.dtype is not leaf.dtype and row.dtype.char not in leaf.usual):
                leaf.refuse(row)  # NumPy would repeat a smaller one
            leaf.rows[lane] = row
            return
        for leaf in self._leaves:
            try:
                row = np.asarray(leaf.get(observation))
            except (KeyError, IndexError, TypeError) as error:
                raise Misfit(f"the observation lacks {leaf.name!r} ({error!r})") from None
            if row.shape != leaf.shape or (row.dtype is not leaf.dtype and row.dtype.char not in leaf.usual):
                leaf.refuse(row)
            leaf.rows[lane] = row


def _made(make: Callable[[], gymnasium.Env[Any, Any]], lane: int) -> gymnasium.Env[Any, Any]:
    """Makes a lane's environment, which is a sign of life."""
    with signs_of_life.in_call(signs_of_life.MAKING, lane):
        return make()
