"""Options that several commands share, and the client they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytosynth.cli.global_options import caller

if TYPE_CHECKING:
    from cytosynth.client import Client

CalibrationFolds = Annotated[
    int | None,
    typer.Option(help="Parts held out in turn to calibrate answers; default: 3. 0: none."),
]
Key = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The same key again gives the same job or dataset."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the job and return at once.")]
Shots = Annotated[
    str,
    typer.Option(
        help="Training images per class: 16, or 16,12,8 by class in alphabetical order, "
        "or class=16,class=12. 0 takes all but the test share."
    ),
]
MaxTest = Annotated[
    int, typer.Option(min=0, help="Most test images per class; 0: all that remain.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed.")]
SamplerPreset = Annotated[
    str, typer.Option(help="draft, fast, balanced or paper; default: the server's.")
]
Data = Annotated[Path, typer.Option("--data", help="ImageFolder tree: <class>/<image>.")]
ReportFolder = Annotated[
    Path, typer.Option("--out", help="Folder for report.html and report.json.")
]
Base = Annotated[str, typer.Option(help="Base diffusion model.")]
ClipBase = Annotated[str, typer.Option(help="CLIP base.")]
StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CYTOSYNTH_STATE_DIR", help="Where everything is kept; default: .cytosynth here."
    ),
]
Keep = Annotated[
    bool, typer.Option("--keep-stack", help="Leave services running that this command started.")
]


def resolve(address: str | None = None) -> tuple[str, dict[str, Any]]:
    """The address to call and the client's other arguments.

    Without an address, here or on the command line, the stack of this folder is meant; if it
    speaks TLS, its certificates are used unless others are named.

    Args:
        address: Instead of the command line's.

    Raises:
        NoStack: no address is given and no stack of this folder runs.
    """
    from cytosynth.client import tls_credentials
    from cytosynth.stack.processes import running_stack
    from cytosynth.stack.state import StackFiles, default_state_dir

    who = caller()
    files = StackFiles(default_state_dir())
    address = address or who.address or running_stack(files).address
    stack = files.read()
    is_own = stack is not None and stack.address == address
    arguments: dict[str, Any] = {"tenant": who.tenant, "timeout_seconds": who.timeout}
    if who.certs_dir:
        arguments["credentials"] = _credentials(who.certs_dir, who.tenant)
    elif stack and is_own and stack.tls and stack.ca_path:
        arguments["credentials"] = (
            _credentials(stack.ca_path.parent, who.tenant)
            if who.tenant
            else tls_credentials(
                stack.ca_path, stack.client_certificate_path, stack.client_key_path
            )
        )
    elif stack and is_own and who.tenant:
        raise typer.BadParameter(
            "has no effect on a stack without TLS; start it with `cytosynth up --tls`",
            param_hint="--tenant",
        )
    return address, arguments


def _credentials(folder: Path, tenant: str | None) -> Any:
    """TLS credentials of a tenant; raises if its certificate is missing."""
    from cytosynth.client import tls_credentials
    from cytosynth.stack.certificate_files import DEFAULT_TENANT, CertificateSet

    names = sorted(path.stem.removeprefix("client-") for path in folder.glob("client-*.pem"))
    found = CertificateSet(folder, tuple(names))
    if tenant is None and DEFAULT_TENANT not in names:
        return tls_credentials(found.ca)
    identity = found.client(tenant or DEFAULT_TENANT)
    return tls_credentials(found.ca, identity.certificate, identity.key)


@contextmanager
def connected() -> Iterator[Client]:
    """A client of services that answer; raises ``UNAVAILABLE`` if none do."""
    from cytosynth.client import Client

    target, arguments = resolve()
    with Client(target, **arguments) as client:
        client.check()
        yield client


def refuse_without_effect(condition: str, given: Mapping[str, Any], remedy: str) -> None:
    """Refuse options that nothing would use.

    Args:
        condition: Why not, for example ``without --adapter``.
        given: Values by option; None, empty and False mean that it was not given.
        remedy: What to do.
    """
    for option, value in given.items():
        if value is not None and value is not False and value != "":
            raise typer.BadParameter(f"has no effect {condition}; {remedy}", param_hint=option)


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
    """On Ctrl-C print one line with its consequence, and exit 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"cytosynth: interrupted; {consequence}", err=True)
        raise typer.Exit(130) from None


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit()
