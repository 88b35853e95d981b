"""Parameters of a test by tier: some are run before each commit, the others with `make test-slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiered(cases: Iterable[Any], first: Collection[Any], group: str = "") -> list[Any]:
    """Parameters, of which those that are not in `first` are slow.

    Args:
      cases: each a name, or a tuple of names.
      first: the cases of the first tier, all of which are among `cases`.
      group: one process runs all tests of a group and of the same first name, and so makes their fixtures once; no
        group lets any process run any test.
    """
    cases = list(cases)
    assert set(first) <= set(cases), f"{set(first) - set(cases)} are no cases"
    parameters = []
    for case in cases:
        names = case if isinstance(case, tuple) else (case,)
        marks = [] if case in first else [pytest.mark.slow]
        if group:
            marks.append(pytest.mark.xdist_group(f"{group} {names[0]}"))
        parameters.append(pytest.param(*names, marks=marks, id="-".join(names)))
    return parameters
