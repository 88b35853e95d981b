"""Types are decoded to in several threads at once, from their first use on."""

from collections.abc import Callable

LOADS = """
import sys, threading
import pipeline

sys.setswitchinterval(1e-6)
barrier, loaded = threading.Barrier(8), []

def load():
    barrier.wait()
    loaded.append(pipeline.load("cartpole"))

threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(loaded) == 8 and all(one == loaded[0] for one in loaded)
print("whole")
"""


ATTEMPTS = 12
"""Of which without `prepared` seven of 24 ended with a segmentation fault."""


def test_threads_may_load_configs_at_once(run_python: Callable[..., str]) -> None:
    for _ in range(ATTEMPTS):
        assert run_python(LOADS).splitlines()[-1] == "whole"
