"""The commands and their options, as the command line has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cytosynth.cli.app import app


def commands() -> dict[str, Any]:
    """Every command by its words, for example ``alias set``."""
    return dict(_below(typer.main.get_command(app), ()))


def options(command: Any) -> set[str]:
    """Options and arguments of a command: ``--out``, ``-v``, ``COUNTS``."""
    found: set[str] = set()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            found.add(parameter.name.upper())
        else:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _below(child, (*words, name))
    else:
        yield " ".join(words), command
