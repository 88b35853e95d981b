"""Masks are obeyed however an environment gives them. Prints lines of `ok` or `FAIL`."""

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline import environments
from pipeline.experiment.sections import EnvironmentConfig


class Base(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(3)
    at_reset = True

    def info(self):  # action 2 is forbidden at even steps, 1 at odd ones
        return {"action_mask": np.array([True, self.n % 2 == 0, self.n % 2 == 1])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(1, np.float32), self.info() if self.at_reset else {}

    def step(self, action):
        if action == 2 - self.n % 2:
            raise ValueError(f"illegal move {action}")
        self.n += 1
        return np.zeros(1, np.float32), 0.0, False, self.n == 10, self.info()


class StepsOnly(Base):
    at_reset = False


class Additive(Base):  # as it is added to logits
    def info(self):
        return {"action_mask": np.where(super().info()["action_mask"], 0.0, -np.inf)}


def mask_after_one_step(path, **more):
    env = environments.make(EnvironmentConfig(id="", import_path=path, **more), 2)
    env.reset(0)
    return env.step(np.zeros(2, np.int64)).mask


if __name__ == "__main__":
    want = [True, False, True]
    for name in ("Base", "StepsOnly", "Additive"):
        try:
            mask = mask_after_one_step(f"masks_of_any_form:{name}")
            print(
                "ok  " if mask is not None and mask[0].tolist() == want else "FAIL",
                name,
                None if mask is None else mask[0].tolist(),
            )
        except Exception as error:
            print("ok  " if "mask" in str(error) else "FAIL", name, type(error).__name__, error)
    env = environments.make(EnvironmentConfig(id="", import_path="masks_of_any_form:Base", frame_skip=2), 1)
    env.reset(0)
    try:
        env.step(np.array([1]))  # allowed where it is chosen, not one frame later
        print("ok   frame_skip")
    except Exception as error:
        print("FAIL frame_skip", error)
