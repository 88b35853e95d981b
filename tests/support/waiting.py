"""How tests wait for what is to come: longer than any machine is slow."""

import time
from collections.abc import Callable
from typing import Any

SECONDS = 600.0
"""For what hangs. A test's own deadline is longer, so that a wait is the first to say what did not come."""


def wait_until(holds: Callable[[], Any], what: str, words: Callable[[], str] = str) -> Any:
    """Waits until something is so, and returns it; what never is fails, with words that help to find the cause."""
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s until {what}\n{words()}"
        time.sleep(0.05)
    return found
