"""Environments with PettingZoo's interface and one agent, as gymnasium's."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from pipeline.experiment.config import UsageError

_SEEN, _MASK = "observation", "action_mask"


class OneAgent(gymnasium.Env[Any, Any]):
    """A PettingZoo environment of one agent, by turns (AEC) or parallel, with gymnasium's interface.

    An observation of `observation` and `action_mask`, PettingZoo's convention, is split: the mask goes into info.

    Args:
      environment: any of PettingZoo's.
      name: its, for messages.
      splits: whether to; else they stay as they are.

    Raises:
      UsageError: it has several agents.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, environment: Any, name: str, splits: bool = True) -> None:
        self._environment = environment
        agents = list(getattr(environment, "possible_agents", ()) or ())
        if not agents:
            environment.reset()
            agents = list(environment.agents)
        if len(agents) != 1:
            raise UsageError(
                f"environment {name!r} ({type(environment).__name__}) has PettingZoo's interface and {len(agents)} "
                f"agents ({', '.join(map(str, agents))}): wrap it in a gymnasium.Env of one agent that plays for the "
                "others"
            )
        self._agent = agents[0]
        self._by_turns = hasattr(environment, "agent_iter") or hasattr(environment, "last")
        self.observation_space = self._space("observation_space")
        self.action_space = self._space("action_space")
        seen = self.observation_space
        self._splits = splits and isinstance(seen, spaces.Dict) and set(seen.spaces) == {_SEEN, _MASK}
        if self._splits and isinstance(seen, spaces.Dict):
            self.observation_space = seen.spaces[_SEEN]
        self.render_mode = getattr(environment, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        result = self._environment.reset(seed=seed, options=options)
        if self._by_turns:
            observation, _, _, _, info = self._environment.last()
        elif isinstance(result, tuple):
            observation, info = result[0][self._agent], result[1].get(self._agent, {})
        else:  # PettingZoo before 1.23
            observation, info = result[self._agent], {}
        return self._split(observation, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes an action."""
        if self._by_turns:
            self._environment.step(action)
            observation, reward, terminated, truncated, info = self._environment.last()
        else:
            parts = self._environment.step({self._agent: action})
            observation, reward, terminated, truncated, info = (part[self._agent] for part in parts)
        observation, info = self._split(observation, info)
        return observation, reward, bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """The environment's own picture."""
        return self._environment.render()

    def close(self) -> None:
        """Releases the environment."""
        self._environment.close()

    def _space(self, field: str) -> Any:
        found = getattr(self._environment, field, None)
        if callable(found):
            return found(self._agent)
        return found if found is not None else getattr(self._environment, f"{field}s")[self._agent]

    def _split(self, observation: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        info = dict(info or {})
        if self._splits and isinstance(observation, Mapping):
            info.setdefault(_MASK, observation[_MASK])
            observation = observation[_SEEN]
        return observation, info
