"""Serves the page of a review until it is stopped."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import uvicorn

from cytosynth.client.errors import CytosynthError, invalid_argument
from cytosynth.file_lock import lock
from cytosynth.review.answers import Answers
from cytosynth.review.mix import Mix, shown_cells
from cytosynth.review.page import review_app

_LOCK_FILE = ".serving"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of a review; raises if another process serves it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK_FILE).open("w") as file:
        if not lock(file, wait=False):
            raise CytosynthError(
                "FAILED_PRECONDITION",
                f"another process serves {out}",
                remedy="use its page: one serves any number of reviewers",
            )
        yield


def serve_review(
    mix: Mix,
    out: Path,
    host: str,
    port: int,
    allowed_hosts: Sequence[str] = (),
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM, which end it as ``KeyboardInterrupt``.

    Args:
        mix: The mix of ``out``.
        out: Folder of the review.
        host: Address to listen at.
        port: Port to listen at; 0: any that is free.
        allowed_hosts: Further names by which browsers may call it.
        on_start: Hears the address of the page once somebody listens there.

    Raises:
        CytosynthError: The address cannot be had, or the folder is damaged.
    """
    shown = shown_cells(mix, out)
    with closing(Answers(out)) as answers, closing(_listen(host, port)) as listener:
        app = review_app(mix, shown, answers, _allowed(host, allowed_hosts))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        on_start(f"http://{_in_address(host)}:{listener.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise invalid_argument(
            "--host and --port",
            f"cannot listen at {host}:{port}: {error.strerror}",
            "choose another",
        ) from None


def _allowed(host: str, further: Sequence[str]) -> list[str]:
    """Host names that a browser may have used for this machine."""
    names = {*_LOOPBACK_NAMES, _in_address(host), *(name.lower() for name in further)}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        for addresses in psutil.net_if_addrs().values():
            found = [a for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
            names |= {_in_address(a.address.partition("%")[0]) for a in found}
    return sorted(names)


def _in_address(host: str) -> str:
    """``host`` as it stands in a web address."""
    return f"[{host}]" if ":" in host else host.lower()
