"""Runs the commands by name: `reverb-dqn train ...` is `python -m pipeline.train ...`; without a name it lists them."""

import ast
import difflib
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.runtime.installation import NAME, version

_HERE = Path(__file__).resolve().parent
_HELP = ("--help", "-h", "-help", "help")
_FLAG = re.compile(r"""(?:DEFINE_\w+|add_argument)\(\s*"(?:--)?(\w+)\"""")

_COMPLETIONS = {
    "bash": """_reverb_dqn() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words="{commands}"
  if [ "$COMP_CWORD" -gt 1 ]; then case "${{COMP_WORDS[1]}}" in
{cases}
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  case "${{COMPREPLY[0]:-}}" in --*) compopt -o nospace;; esac
}}
complete -o default -F _reverb_dqn {name}
""",
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n",
}
"""What a shell reads to complete the commands and their flags; zsh reads bash's as well."""


def commands() -> dict[str, Path]:
    """The files of the commands, by name; they are read, not imported."""
    files = {path.stem: path for path in _HERE.glob("[!_]*.py")}
    files |= {path.parent.name: path for path in _HERE.glob("*/__main__.py")}
    return {name: path for name, path in sorted(files.items()) if "Example" in _description(path)}


def completion(shell: str) -> str:
    """What a shell is to read, such as by `source <(reverb-dqn completion bash)`."""
    found = commands()
    cases = "\n".join(f'    {name}) words="{" ".join(_flags(path))}";;' for name, path in found.items())
    script = _COMPLETIONS["bash"].format(commands=" ".join(found), cases=cases, name=NAME)
    return script if shell == "bash" else _COMPLETIONS[shell] + script


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; `arguments` are those behind the program's name."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in _HELP:
        return _list()
    if name == "--version":
        print(f"{NAME} {version()}")
        return 0
    if name == "completion" and rest in ([shell] for shell in _COMPLETIONS):
        print(completion(rest[0]), end="")
        return 0
    if name not in commands():
        near = difflib.get_close_matches(name, commands(), 1)
        known = f"did you mean {near[0]!r}?" if near else f"`{_program()}` lists the commands"
        known = f"completion is for {' or '.join(_COMPLETIONS)}" if name == "completion" else known
        print(f"error: no command {' '.join([name, *rest][:2])!r}: {known}", file=sys.stderr)
        return 2
    # A script's folder is first on Python's path, where `python -m` has the working directory: the user's modules are
    # to be found by both. It comes last here, so that no file in it hides a package of ours.
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    sys.argv = [name, *rest]
    runpy.run_module(f"pipeline.{name}", run_name="__main__", alter_sys=True)
    return 0


def _list() -> int:
    found, program = commands(), _program()
    width = max(map(len, found))
    print("Commands, each with --help:\n")
    for name, path in found.items():
        print(f"  {program} {name:<{width}}  {_description(path).splitlines()[0]}")
    print(f"\nIs everything in place?  {program} doctor\nA first run:             ", end="")
    print(f"{program} train --config=cartpole --run_dir=runs/first")
    if program == NAME:
        print(f"Completion of words:     source <({NAME} completion bash)")
    return 0


def _program() -> str:
    """How this was called."""
    return NAME if Path(sys.orig_argv[1] if len(sys.orig_argv) > 1 else "").name == NAME else "python -m pipeline"


def _description(path: Path) -> str:
    text = path.read_text()
    return (ast.get_docstring(ast.parse(text)) or "") if 'if __name__ == "__main__":' in text else ""


def _flags(path: Path) -> Iterator[str]:
    """The flags that a command's file defines, and `--config=` with each shipped config."""
    for flag in _FLAG.findall(path.read_text()):
        if flag == "config":
            yield from (f"--config={config.stem}" for config in sorted((_HERE.parent / "configs").glob("*.toml")))
        else:
            yield f"--{flag}"
    yield "--help"


if __name__ == "__main__":
    sys.exit(main())
