"""Inspects the replay of a run, and exports it as a dataset.

  inspect  what is in a replay, as a table: sizes, ages, returns, lengths, priorities, duplicates, actions, faults
  export   whole episodes or transitions, as a dataset of Minari or as TFRecord files

Examples:
  python -m pipeline.replay inspect --run_dir=runs/cartpole --out=replay.png
  python -m pipeline.replay inspect --address=10.0.0.2:9000,10.0.0.3:9000 --config=cartpole
  python -m pipeline.replay export --run_dir=runs/cartpole --format=minari --out=datasets/cartpole-v0
  python -m pipeline.train --config=cartpole_cql --run_dir=runs/cql --set='offline.dataset="datasets/cartpole-v0"'

A run directory is read from its newest whole checkpoint, whether the run goes on or not. A server at an address is
asked for its counts; nothing is sampled, as its rate limiter would count that.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from absl import flags

from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages import addresses
from pipeline.runtime.notices import import_tensorflow
from pipeline.security import strangers

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run, or of one of its replay's servers.")
_ADDRESS = flags.DEFINE_string(
    "address", None, "inspect: host:port of each of the replay's servers, in the place of --run_dir."
)
_CONFIG = flags.DEFINE_string("config", None, "inspect: of the run at --address, so that windows are counted.")
_SET = flags.DEFINE_multi_string("set", [], "inspect: a line of TOML that overrides --config; may be repeated.")
_OUT = flags.DEFINE_string("out", None, "inspect: a picture, such as replay.png. export: the folder to make.")
_FORMAT = flags.DEFINE_enum("format", None, ["minari", "tfrecord"], "export: of the dataset.")
_EPISODES = flags.DEFINE_bool("episodes", False, "export: whole episodes, the others are left out; the default.")
_TRANSITIONS = flags.DEFINE_bool("transitions", False, "export: every stored transition; of --format=tfrecord.")
_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)

_ONLY: dict[str, tuple[flags.FlagHolder[Any], ...]] = {
    "inspect": (_ADDRESS, _CONFIG, _SET),
    "export": (_EPISODES, _FORMAT, _TRANSITIONS),
}


def main(arguments: list[str]) -> int:
    """Checks the command line and runs the subcommand."""
    subcommands = {"inspect": _inspect, "export": _export}
    if len(arguments) < 2 or arguments[1] not in subcommands:
        given = f"{arguments[1]!r} is no subcommand" if len(arguments) > 1 else "a subcommand is missing"
        raise UsageError(f"{given}: give inspect (what is in a replay) or export (a dataset of it); --help says more")
    name = arguments[1]
    refuse_more(arguments[1:])
    for subcommand, others in _ONLY.items():
        for flag in others:
            if subcommand != name and flag.present:
                raise UsageError(f"--{flag.name} is not of {name}: leave it out")
    with strangers.reading(Path(_RUN_DIR.value), _TRUST.value == "yes") if _RUN_DIR.value else nullcontext():
        return subcommands[name]()


def _inspect() -> int:
    if bool(_RUN_DIR.value) == bool(_ADDRESS.value):
        raise UsageError("give either --run_dir or --address: whose replay?")
    if not _ADDRESS.value:
        if _CONFIG.value or _SET.value:
            raise UsageError("--config and --set are of --address: a run directory has its own config")
        return _inspect_run(Path(_RUN_DIR.value), Path(_OUT.value) if _OUT.value else None)
    if _OUT.value:
        raise UsageError("--out needs transitions, which are not sampled from a server: give --run_dir")
    if _SET.value and not _CONFIG.value:
        raise UsageError("--set overrides --config: give it, too")
    servers = addresses.parse(_ADDRESS.value, "--address")
    experiment = config.load(_CONFIG.value, tuple(_SET.value)) if _CONFIG.value else None
    print(f"asking {', '.join(servers)}", flush=True)
    from pipeline.datasets import live_replay  # it imports TensorFlow: after the command line has been checked

    print(live_replay.table(live_replay.ask(servers), experiment.windows_per_item if experiment else None))
    return 0


def _inspect_run(run_dir: Path, out: Path | None) -> int:
    from pipeline.comparison import replay_picture  # it imports numpy alone

    if out is not None:
        replay_picture.check(out)
    _say_reading(run_dir)
    import_tensorflow()
    from pipeline.datasets import (
        replay_summary,
        stored_replay,  # they import TensorFlow: after the command line has been checked
    )
    from pipeline.datasets.stored_frames import episode_parts

    stored = stored_replay.read(run_dir)
    acted = None if stored.experiment.is_offline else stored.counters.gradient_steps
    found = replay_summary.findings(stored.lanes, stored.layout, acted, stored.of_items())
    print("\n".join([*replay_summary.rows("replay", stored.sizes()), "", replay_summary.table(found)]))
    if out is not None:
        episodes = [part for lane in stored.lanes for part in episode_parts(lane)]
        replay_picture.draw(out, found, episodes, stored.layout)
        print(f"\npicture: {out}")
    return 0


def _export() -> int:
    if not _RUN_DIR.value or not _OUT.value or not _FORMAT.value:
        raise UsageError("--run_dir, --format and --out are needed: which run, as what, and where to?")
    if _EPISODES.value and _TRANSITIONS.value:
        raise UsageError("--episodes and --transitions exclude each other: give one of them")
    if _TRANSITIONS.value and _FORMAT.value == "minari":
        raise UsageError("Minari's datasets hold episodes: give --episodes, or --format=tfrecord")
    run_dir, out = Path(_RUN_DIR.value), Path(_OUT.value)
    _say_reading(run_dir)
    import_tensorflow()
    from pipeline.datasets import dataset_export  # it imports TensorFlow: after the command line has been checked

    print(dataset_export.export(run_dir, out, _FORMAT.value, whole_episodes=not _TRANSITIONS.value))
    return 0


def _say_reading(run_dir: Path) -> None:
    """Says so before the imports that take seconds, if there is a run."""
    RunDirectory(run_dir).experiment()
    print(f"reading the newest checkpoint of {run_dir}", flush=True)


if __name__ == "__main__":
    flags.FLAGS.set_gnu_getopt()  # flags may stand behind the subcommand
    sys.exit(run_command(main, __doc__))
