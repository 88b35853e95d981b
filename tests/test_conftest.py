"""What tests leave behind does not make the end of their process an abort."""

from collections.abc import Callable

SCRIPT = """
import atexit, sys, threading, time
sys.path.insert(0, "tests")
import conftest

class Late:
    def __del__(self):
        print("Python has ended itself")

late = Late()
conftest.leave(1)  # there is nobody to leave behind
threading.Thread(target=time.sleep, args=(60.0,), daemon=True).start()
atexit.register(conftest.leave, 0)
print("the end")
"""


def test_a_process_with_threads_that_cannot_be_ended_is_left_at_once(run_python: Callable[..., str]) -> None:
    assert run_python(SCRIPT) == "the end\n"
