"""Runs a module as Python's `-m` does, with the modules' path of another process.

`world.World.command` starts this file by itself, before anything of ours can be imported:
`python -P start_in_world.py MODULE ARGUMENTS... PATH`, the path as JSON.
"""

import json
import runpy
import sys

if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv.pop())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
