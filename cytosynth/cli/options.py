"""Options that several commands share, and the client they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cytosynth.client import Client

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="CYTOSYNTH_ADDRESS",
        help="Where the services answer; default: the stack that runs in this folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Key = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The same key again gives the same job or dataset."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the job and return at once.")]


@dataclass(frozen=True)
class Caller:
    """Who calls: set once, on the command line before the command."""

    tenant: str | None = None
    tls_dir: Path | None = None
    timeout_seconds: float | None = None


_caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 (frozen)


def set_caller(who: Caller) -> None:
    """Keep what was given before the command."""
    _caller.set(who)


def resolve(address: str | None) -> tuple[str, dict[str, Any]]:
    """The address to call and the client's other arguments.

    Without ``--address`` the stack of this folder is meant; if it speaks TLS, its
    certificates are used unless others are named.

    Raises:
        NoStack: no address is given and no stack of this folder runs.
    """
    from cytosynth.client import tls_credentials
    from cytosynth.stack.processes import running_stack
    from cytosynth.stack.state import StackFiles, default_state_dir

    who = _caller.get()
    files = StackFiles(default_state_dir())
    if address is None:
        address = running_stack(files).address
    stack = files.read()
    arguments: dict[str, Any] = {"tenant": who.tenant, "timeout_seconds": who.timeout_seconds}
    if who.tls_dir:
        arguments["credentials"] = _credentials(who.tls_dir, who.tenant)
    elif stack and stack.tls and stack.address == address and stack.ca_path:
        arguments["credentials"] = tls_credentials(
            stack.ca_path, stack.client_certificate_path, stack.client_key_path
        )
    return address, arguments


def _credentials(folder: Path, tenant: str | None) -> Any:
    """The authority in ``folder`` and the tenant's certificate; raises if that is missing."""
    from cytosynth.client import tls_credentials
    from cytosynth.stack.certificate_files import DEFAULT_TENANT, CertificateSet

    names = sorted(path.stem.removeprefix("client-") for path in folder.glob("client-*.pem"))
    found = CertificateSet(folder, tuple(names))
    if tenant is None and DEFAULT_TENANT not in names:
        return tls_credentials(found.ca)
    identity = found.client(tenant or DEFAULT_TENANT)
    return tls_credentials(found.ca, identity.certificate, identity.key)


@contextmanager
def connected(address: str | None) -> Iterator[Client]:
    """A client of services that answer; raises ``UNAVAILABLE`` within seconds if none does."""
    from cytosynth.client import Client

    target, arguments = resolve(address)
    with Client(target, **arguments) as client:
        client.check()
        yield client


def parse_pairs(texts: list[str], what: str) -> dict[str, int]:
    """``class=number`` pairs, given one by one or separated by commas."""
    pairs: dict[str, int] = {}
    for text in (part for item in texts for part in item.split(",") if part.strip()):
        name, equals, number = (part.strip() for part in text.partition("="))
        if not equals or not name or not _is_integer(number):
            raise typer.BadParameter(f"{text!r} is not class=number", param_hint=what)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=what)
        pairs[name] = int(number)
    return pairs


def parse_shots(text: str) -> int | list[int] | dict[str, int]:
    """``16``, or ``16,12,8`` by class in alphabetical order, or ``class=16,…``."""
    if "=" in text:
        return parse_pairs([text], "--shots")
    parts = [part.strip() for part in text.split(",")]
    if not all(_is_integer(part) for part in parts):
        raise typer.BadParameter(
            f"{text!r} is neither a number, nor numbers by class, nor class=number pairs",
            param_hint="--shots",
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def split_shots(
    shots: int | list[int] | dict[str, int], class_ids: tuple[str, ...]
) -> dict[str, Any]:
    """The ``shots`` and ``class_shots`` arguments of an upload for a folder's classes."""
    if isinstance(shots, int):
        return {"shots": shots}
    if isinstance(shots, list):
        if len(shots) != len(class_ids):
            raise typer.BadParameter(
                f"{len(shots)} numbers for {len(class_ids)} classes ({', '.join(class_ids)})",
                param_hint="--shots",
            )
        return {"class_shots": dict(zip(class_ids, shots, strict=True))}
    unknown = sorted(set(shots) - set(class_ids))
    if unknown:
        raise typer.BadParameter(
            f"no class {unknown[0]!r}; there are {', '.join(class_ids)}", param_hint="--shots"
        )
    return {"class_shots": shots}


@contextmanager
def interruptible(consequence: str) -> Iterator[None]:
    """On Ctrl-C say in one line what that means, and exit 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"cytosynth: interrupted; {consequence}", err=True)
        raise typer.Exit(130) from None


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit()
