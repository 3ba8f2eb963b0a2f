"""Write the shell completions of zqueuectl: ``python packaging/completions/generate.py OUTDIR``.

``zqueuectl`` is for bash, ``_zqueuectl`` for zsh, ``zqueuectl.fish`` for fish; they are what
``zqueuectl completion`` prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zqueue.cli.completion_scripts import script
from zqueue.cli.zqueuectl import main

_SCRIPTS = {"zqueuectl": "bash", "_zqueuectl": "zsh", "zqueuectl.fish": "fish"}


def write(folder: Path) -> None:
    """Write the three scripts into ``folder``, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shell in _SCRIPTS.items():
        (folder / name).write_text(script(shell, main), encoding="utf-8")


@click.command()
@click.argument("outdir", type=click.Path(file_okay=False, path_type=Path))
def generate(outdir: Path) -> None:
    """Write the completions of zqueuectl for bash, zsh and fish into OUTDIR."""
    write(outdir)


if __name__ == "__main__":
    sys.exit(generate())
