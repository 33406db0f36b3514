"""Optional dependencies: which extra brings a package that is not installed."""

from __future__ import annotations

EXTRAS = {
    "PIL": "phantoms,review",
    "cryptography": "certs",
    "jinja2": "review",
    "numpy": "evaluation,phantoms,review",
    "opentelemetry": "traces",
    "scipy": "phantoms",
    "starlette": "review",
    "uvicorn": "review",
}
"""Extras of ``pyproject.toml`` by the module that an installation without them lacks."""


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """Says how to install a missing module.

    Returns:
        None if no extra brings the module.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return f"{module} is not installed; run: pip install 'cytosynth[{EXTRAS[module]}]'"
