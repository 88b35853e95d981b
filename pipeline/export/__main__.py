"""Exports the greedy policy of a run: as a SavedModel that needs TensorFlow alone, as TFLite and as ONNX.

Example:
  python -m pipeline.export --run_dir=runs/cartpole --out=exported/cartpole

The folder also holds a model card (README.md) and what `python -m pipeline.serve --model=exported/cartpole` needs.
"""

import sys
from pathlib import Path

from absl import flags

from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.environments import EnvironmentFault
from pipeline.experiment.config import UsageError
from pipeline.export import directory
from pipeline.security import strangers

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; it must not exist, or be empty.")
_POLICY = flags.DEFINE_enum("policy", "best", ["best", "latest"], "Of the evaluations so far: the best or the newest.")

_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)


def main(arguments: list[str]) -> int:
    """Exports and says what there is."""
    refuse_more(arguments)
    if not _RUN_DIR.value:
        raise UsageError("--run_dir is missing: which run's policy?")
    if not _OUT.value:
        raise UsageError("--out is missing: where to?")
    out = Path(_OUT.value)
    try:
        with strangers.reading(Path(_RUN_DIR.value), _TRUST.value == "yes"):
            written = directory.write(directory.origin(Path(_RUN_DIR.value), _POLICY.value), out)
    except EnvironmentFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    for path, what in written.files.items():
        print(f"{out / path}: {what}")
    for path, why in written.missing.items():
        print(f"no {path}: {why}")
    if written.shield_obstacle:
        print(f"the shield is not inside, its mask is an input: {written.shield_obstacle}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
