"""Runs pip or uv with this site's package mirror and certificates.

``python tools/site_installer.py pip|uv ARGUMENTS…`` replaces itself with ``pip`` or ``uv`` of the
same environment.  uv reads none of pip's settings, so they are handed on: index, links, proxy and
certificates from ``pip.conf`` and the ``PIP_…`` variables.  Variables that are set already win.

Needs Python's standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Later sections win in pip: the file's [global], the file's [install], then PIP_… variables.
_SECTIONS = ("global", "install", ":env:")
# Where systems keep the certificates that their administrators trust.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_FIRST_PIP_WITH_SYSTEM_CERTIFICATES = (24, 2)


def pip_settings(listed: str) -> dict[str, str]:
    """Reads what ``pip config list`` prints; returns options by name."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in found:
            found[section][option] = ast.literal_eval(value)
    return {option: value for section in _SECTIONS for option, value in found[section].items()}


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Variables that make uv install as pip with these settings would."""
    indexes = settings.get("extra-index-url", "").split()
    told = {
        "UV_SYSTEM_CERTS": "1",
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(indexes),
        # As pip does; what is installed is held to the lock's hashes either way.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if indexes else "",
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": settings.get("timeout", settings.get("default-timeout", "")),
        "SSL_CERT_FILE": settings.get("cert", ""),
        "SSL_CLIENT_CERT": settings.get("client-cert", ""),
        "HTTP_PROXY": settings.get("proxy", ""),
        "HTTPS_PROXY": settings.get("proxy", ""),
    }
    return {name: value for name, value in told.items() if value}


def pip_environment(settings: Mapping[str, str], pip_version: tuple[int, ...]) -> dict[str, str]:
    """Variables that make an old pip trust the system's certificates."""
    if "cert" in settings or pip_version >= _FIRST_PIP_WITH_SYSTEM_CERTIFICATES:
        return {}
    bundle = next((path for path in _SYSTEM_BUNDLES if Path(path).is_file()), "")
    return {"PIP_CERT": bundle} if bundle else {}


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main(tool: str, *arguments: str) -> None:
    """Replaces this process with the tool."""
    settings = pip_settings(_pip("config", "list"))
    if tool == "uv":
        without = settings.get("no-index", "").lower() in ("1", "on", "true", "y", "yes", "t")
        command = [str(Path(sys.executable).parent / "uv"), *arguments]
        command += ["--no-index"] if without else []
        told = uv_environment(settings)
        if "UV_INDEX_URL" in os.environ:
            told.pop("UV_DEFAULT_INDEX", None)
    else:
        version = _pip("--version").split()[1]
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        command = [sys.executable, "-m", "pip", *arguments]
        told = pip_environment(settings, numbers)
    os.execve(command[0], command, {**told, **os.environ})


if __name__ == "__main__":
    main(*sys.argv[1:])
