"""Closing that raises, and leaving the program within a step, end no process. Prints lines of `ok` or `FAIL`."""

import sys
import threading

import gymnasium
import numpy as np
from gymnasium import spaces


class Base(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n += 1
        return np.zeros(1, np.float32), float(action), False, self.n == 10, {}


class CloseRaises(Base):
    def close(self):
        raise AttributeError("no window was ever opened")


class Exits(Base):
    def step(self, action):
        if self.n == 5:
            sys.exit()  # pygame.QUIT
        return super().step(action)


if __name__ == "__main__":
    from pipeline import environments
    from pipeline.experiment.config import UsageError
    from pipeline.experiment.sections import EnvironmentConfig

    if sys.argv[1:2] == ["thread"]:
        import pipeline

        e = pipeline.load("cartpole", ("stop.environment_steps=6_000",))
        thread = threading.Thread(target=lambda: print(pipeline.train(e, sys.argv[2]).mean_return))
        thread.start(), thread.join()
        sys.exit()
    try:
        print("ok  ", environments.describe(EnvironmentConfig(id="", import_path="ends:CloseRaises")))
    except UsageError as error:
        print("ok   refused:", error)
    except Exception as error:
        print("FAIL close()", repr(error))
    env = environments.make(EnvironmentConfig(id="", import_path="ends:Exits"), 2, 1.0)
    env.reset(0)
    try:
        for _ in range(8):
            env.step(np.zeros(2, np.int64))
        print("ok  ", env.faults.newest)
    except BaseException as error:
        print("FAIL step()", repr(error), "ends the process")
