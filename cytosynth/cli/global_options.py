"""Options that every command takes, before and after its name."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from cytosynth import traces

_PANEL = "Options of every command"
_NOTES = "cytosynth.renamed_options"

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="CYTOSYNTH_ADDRESS",
        help="Where the services answer; default: the stack that runs in this folder.",
        rich_help_panel=_PANEL,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="CYTOSYNTH_TENANT",
        help="Whose data to work with.",
        rich_help_panel=_PANEL,
    ),
]
CertsDir = Annotated[
    Path | None,
    typer.Option(
        "--certs-dir",
        envvar="CYTOSYNTH_TLS_DIR",
        help="Folder with ca.pem, client-TENANT.pem and .key, as `cytosynth certs` makes it.",
        rich_help_panel=_PANEL,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0.001, help="Seconds one call may take.", rich_help_panel=_PANEL),
]
TracesEndpoint = Annotated[
    str,
    typer.Option(
        "--traces-endpoint",
        envvar="CYTOSYNTH_TRACES_ENDPOINT",
        help="OTLP gRPC collector that traces of calls go to, as http://host:port.",
        rich_help_panel=_PANEL,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for machines.", rich_help_panel=_PANEL)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Log every call and its request id.", rich_help_panel=_PANEL
    ),
]
# Old names of global options, hidden for one release.
RENAMED = {"--tls-dir": "--certs-dir"}
_CALLS = ("address", "tenant", "certs_dir", "timeout", "traces_endpoint")


@dataclass(frozen=True)
class Caller:
    """The global options of the command that runs."""

    address: str | None = None
    tenant: str | None = None
    certs_dir: Path | None = None
    timeout: float | None = None
    traces_endpoint: str = ""
    json: bool = False
    verbose: bool = False


_caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 (frozen)


def caller() -> Caller:
    """The global options of the command that runs."""
    return _caller.get()


def set_caller(who: Caller) -> None:
    """Keep the global options of the command that runs."""
    _caller.set(who)


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    panel: str | None = None,
    calls: bool = True,
    json: bool = True,
    renamed: Mapping[str, str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command that takes global options.

    Args:
        app: Where to register it.
        name: Its name; None: the function's.
        panel: Its group in the list of commands.
        calls: Whether it calls services, and takes the options that say which.
        json: Whether it takes ``--json``.
        renamed: Old names of its options, hidden for one release, and the new names.
        words: Option or argument by path of a request's field, for messages of the services.
    """
    takes = frozenset(("verbose", *(_CALLS if calls else ()), *(("json",) if json else ())))
    members = {
        "takes": takes,
        "renamed": {**(RENAMED if calls else {}), **(renamed or {})},
        "words": words or {},
    }
    kind = type("Command", (GlobalCommand,), members)
    return app.command(name, cls=kind, rich_help_panel=panel)


class GlobalCommand(TyperCommand):
    """A command with global options; refuses those it has no use for."""

    takes: ClassVar[frozenset[str]] = frozenset()
    renamed: ClassVar[Mapping[str, str]] = {}
    words: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *args: Any, params: list[Any] | None = None, **settings: Any) -> None:
        own = [copy.copy(option) for option in _options() if option.name in self.takes]
        for option in own:
            option.envvar = None  # The environment is read once, by the options before the command.
        super().__init__(*args, params=[*(params or ()), *own], **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take old names of options."""
        rest: list[str] = super().parse_args(ctx, _with_new_names(ctx, args, self.renamed))
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run with the global options from before and after the command."""
        from cytosynth.cli.words import in_words
        from cytosynth.client.errors import CytosynthError

        set_caller(self._caller(ctx))
        if not caller().json:
            for note in ctx.meta.get(_NOTES, ()):
                typer.echo(note, err=True)
        _begin(caller())
        try:
            return super().invoke(ctx)
        except CytosynthError as error:
            raise in_words(error, self.words) from None

    def _caller(self, ctx: Any) -> Caller:
        root = ctx.find_root()
        values: dict[str, Any] = {}
        for field in fields(Caller):
            name = field.name
            before = was_given(root, name)
            if name not in self.takes:
                if before:
                    option = f"--{name.replace('_', '-')}"
                    raise typer.BadParameter(
                        f"has no effect on `{ctx.command_path}`; leave it out", param_hint=option
                    )
                continue
            after = ctx.params.pop(name)
            values[name] = after if was_given(ctx, name) else root.params.get(name, after)
        return Caller(**values)


class GlobalGroup(TyperGroup):
    """The command line itself; takes global options under their old names, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take old names of options before the command."""
        rest: list[str] = super().parse_args(ctx, _with_new_names(ctx, args, RENAMED))
        return rest


class GlobalSubgroup(TyperGroup):
    """Group of commands that hands global options to its command.

    Global options may stand between the group's name and the command's.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move global options behind the command's name."""
        takes_value = {
            name: not option.is_flag for option in _options() for name in option.opts
        } | dict.fromkeys(RENAMED, True)
        number = 0
        while number < len(args) and args[number].partition("=")[0] in takes_value:
            name, equals, _ = args[number].partition("=")
            number += 2 if takes_value[name] and not equals else 1
        rest: list[str] = super().parse_args(ctx, [*args[number:], *args[:number]])
        return rest


def _with_new_names(ctx: Any, args: list[str], renamed: Mapping[str, str]) -> list[str]:
    new: list[str] = []
    for number, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if arg == "--":
            return new + args[number:]
        if name in renamed:
            notes = ctx.meta.setdefault(_NOTES, [])
            notes.append(f"note: {name} is called {renamed[name]} now")
            arg = f"{renamed[name]}{equals}{value}"
        new.append(arg)
    return new


def was_given(ctx: Any, name: str) -> bool:
    """Whether a parameter was given on the command line itself."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _options() -> list[Any]:
    """The global options as typer makes them."""

    def declared(
        address: Address = None,
        tenant: Tenant = None,
        certs_dir: CertsDir = None,
        timeout: Timeout = None,
        traces_endpoint: TracesEndpoint = "",
        json: AsJson = False,
        verbose: Verbose = False,
    ) -> None: ...

    declaring = typer.Typer(add_completion=False)
    declaring.command()(declared)
    options: list[Any] = typer.main.get_command(declaring).params
    return options


class _VerboseHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr what --verbose asks for."""


def _begin(who: Caller) -> None:
    logger = logging.getLogger("cytosynth")
    for before in [each for each in logger.handlers if isinstance(each, _VerboseHandler)]:
        logger.removeHandler(before)
    logger.setLevel(logging.INFO if who.verbose else logging.NOTSET)
    if who.verbose:
        handler = _VerboseHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    try:
        traces.start(who.traces_endpoint, "client")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--traces-endpoint") from None
