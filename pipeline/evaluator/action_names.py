"""What the actions of an environment are called."""

from typing import Any

from agents.dimensions import choice_names
from pipeline.environments.lanes.lane_environment import LaneEnvironment

_DOCUMENTED = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "coast", "right"),
    "Acrobot": ("torque -1", "torque 0", "torque +1"),
    "LunarLander": ("coast", "left engine", "main engine", "right engine"),
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
    "Blackjack": ("stick", "hit"),
}
"""In gymnasium's documentation, by the beginning of the class's name."""
_MINATAR = {"n": "no-op", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}


def action_names(environment: LaneEnvironment) -> tuple[str, ...]:
    """A name for each action: the environment's own (`get_action_meanings()`), a documented one, or its number.

    Of several dimensions each choice has one, such as 0=2.
    """
    count = environment.specs.num_actions
    vector: Any = environment.vector
    single = vector.envs[0].unwrapped if hasattr(vector, "envs") else vector
    kind = type(single).__name__
    named = _own(single) or next((names for start, names in _DOCUMENTED.items() if kind.startswith(start)), ())
    numbers = choice_names(environment.specs.action_sizes) or map(str, range(count))
    return tuple(map(str, named)) if len(named) == count else tuple(numbers)


def _own(single: Any) -> tuple[Any, ...]:
    if hasattr(single, "get_action_meanings"):
        return tuple(single.get_action_meanings())
    if isinstance(actions := getattr(getattr(single, "action_type", None), "actions", None), dict):  # highway-env's
        return tuple(name.lower().replace("_", " ") for _, name in sorted(actions.items()))
    if (game := getattr(getattr(single, "game", None), "env", None)) is not None and hasattr(game, "action_map"):
        return tuple(_MINATAR[game.action_map[action]] for action in single.action_set)
    return ()
