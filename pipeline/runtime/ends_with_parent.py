"""Runs a program that Linux kills when its parent process ends.

`python -m pipeline.runtime.ends_with_parent PARENT COMMAND...`, with the parent's process id. A function that runs
between fork and exec would do the same, but not safely in a process of many threads.
"""

import os
import sys

from pipeline.runtime.process import die_with_parent


def main(parent: str, *command: str) -> None:
    """Replaces this process with the command; the kernel's death signal stays set."""
    die_with_parent(int(parent))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
