"""Frame skip: an action is held for several steps of the environment, which count as one."""

from typing import Any, SupportsFloat

import gymnasium


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action and adds up the rewards; an end within cuts the repetition short.

    Gymnasium's own wrapper for it, MaxAndSkipObservation, merges the last two observations: right for the flicker of an
    Atari, wrong for a speed or a price.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], frames: int) -> None:
        super().__init__(env)
        self._frames = frames
        if rate := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": rate / frames}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes the action for as many frames; observation and info are the last one's."""
        total = 0.0
        for _ in range(self._frames):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
