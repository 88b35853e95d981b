"""An environment with every habit that processes can have, and some with one each; used by import path."""

import atexit
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import gymnasium
import numpy as np
from absl import flags

for _name in ("seed", "config", "run_dir", "role", "index", "debug", "replay"):
    if _name not in flags.FLAGS:
        flags.DEFINE_string(_name, f"mine: {_name}", "Of the environment's own module.")
atexit.register(lambda: print("the simulator says goodbye", flush=True))


class Walk(gymnasium.Env[Any, Any]):
    """Ten steps an episode; a reward for action 1."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return np.zeros(1, np.float32), float(action), False, self._steps == 10, {}


class Habits(Walk):
    """Forks, starts programs and threads, handles signals, changes directory, prints, and cannot be closed."""

    def __init__(self, sleeper: str) -> None:
        assert flags.FLAGS.seed == "mine: seed"
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of an earlier lane's: a child would never end
        fork = multiprocessing.get_context("fork")
        for stays in (True, False):
            child = fork.Process(target=time.sleep, args=(1000,))
            child.start()
            if not stays:
                child.terminate()
                child.join()
        command = [sys.executable, "-c", "import time; time.sleep(1000)", sleeper]
        self.program = subprocess.Popen(command, start_new_session=True)
        threading.Thread(target=time.sleep, args=(1000,)).start()
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.disable(logging.CRITICAL)
        os.chdir("/")
        print("the simulator starts", flush=True)

    def close(self) -> None:
        raise AttributeError("no window was ever opened")


class HangsInEvaluations(Walk):
    """Its resets hang in the evaluator alone."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if any("--role=evaluator" in argument for argument in sys.orig_argv) and threading.active_count() > 1:
            time.sleep(1e6)
        return super().reset(seed=seed)


class SlowMake(Walk):
    """Takes a second to be made."""

    def __init__(self) -> None:
        time.sleep(1.0)


class Exits(Walk):
    """Leaves the program in the middle of an episode."""

    def step(self, action: Any) -> Any:
        if self._steps == 5:
            sys.exit()
        return super().step(action)
