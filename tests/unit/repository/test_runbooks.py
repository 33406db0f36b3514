"""Commands that README and the docs tell one to type are understood."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from cytosynth.cli.app import app
from tests.support.postgresql import POSTGRESQL_TOOLS

ROOT = Path(__file__).resolve().parents[3]
# Whole commands stand in their text too, not only in blocks.
RUNBOOKS = [*sorted((ROOT / "docs/runbooks").glob("*.md")), ROOT / "docs/scaling.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *RUNBOOKS[:-1]]


class _Understood(Exception):
    """The arguments were parsed; nothing is done."""


def _typed(program: str) -> list[str]:
    """Commands of this program in blocks and in the text, each once."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        blocks = [block.replace("\\\n", " ") for block in blocks]
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        if page in RUNBOOKS:
            prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
            lines += re.findall(r"`([^`\n]+)`", prose)
        found |= {
            line.partition("  #")[0].strip()
            for line in lines
            if line.startswith(program) and " " in line
        }
    return sorted(found)


def _words(line: str) -> list[str]:
    return shlex.split(line.partition(">")[0].replace("…", "x"))


@pytest.mark.parametrize("line", _typed("python -m services."))
def test_a_module_takes_what_is_typed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def understood(self: argparse.ArgumentParser, args=None, namespace=None) -> None:
        parse(self, args, namespace)
        raise _Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)
    _, _, module, *arguments = _words(line)
    with pytest.raises(_Understood):
        importlib.import_module(module).main(arguments)


@pytest.mark.parametrize("line", _typed("cytosynth "))
def test_the_command_line_takes_what_is_typed(line: str) -> None:
    command, arguments = typer.main.get_command(app), _words(line)[1:]
    context = command.make_context("cytosynth", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        assert command is not None, name
        if not hasattr(command, "resolve_command"):
            command.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("line", _typed("pg_"))
def test_postgresql_has_the_options_that_are_typed(line: str) -> None:
    tool, *arguments = _words(line)
    binary = POSTGRESQL_TOOLS / tool
    manual = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert options and all(option in manual for option in options)


def test_there_is_something_to_check() -> None:
    assert len(_typed("python -m services.")) >= 10
    assert len(_typed("cytosynth ")) >= 4
    assert len(_typed("pg_")) == 2
