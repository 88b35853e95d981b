"""Many runs of one config with other values and seeds: which ones, how they are run, and their results.

Belongs here: what `pipeline.sweep(...)` and `python -m pipeline.sweep` do. Curves and intervals are in
`pipeline.comparison`.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.sweep.call import SweepResult


class _Callable(ModuleType):
    """This module, which is what `pipeline.sweep` is once a part of it has been imported."""

    def __call__(self, *arguments: object, **named: object) -> "SweepResult":
        from pipeline.sweep.call import sweep

        return sweep(*arguments, **named)  # type: ignore[arg-type]


sys.modules[__name__].__class__ = _Callable
