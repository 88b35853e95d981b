"""Arguments of an environment reach the run as they were given, or are refused. Prints `ok` or `FAIL`."""

import msgspec
import numpy as np

from pipeline.experiment import config
from pipeline.experiment.config import UsageError

base = config.parse('[environment]\nid = ""\nimport_path = "x:Y"\n[stop]\nseconds = 1.0\n')
for kwargs in (
    {"start": None},
    {"a": {"b": None}},
    {"size": (1, 2)},
    {"key": b"ab"},
    {"only": {3}},
    {"x": [None]},
    {"n": np.int64(3)},
    {"x": object()},
):
    e = msgspec.structs.replace(base, environment=msgspec.structs.replace(base.environment, kwargs=kwargs))
    try:
        got = config.parse(config.dump(e)).environment.kwargs
        print("ok  " if got == kwargs else "FAIL", kwargs, "->", got)
    except UsageError as error:
        print("ok   refused:", error)
    except Exception as error:
        print("FAIL", kwargs, "->", type(error).__name__, error)
