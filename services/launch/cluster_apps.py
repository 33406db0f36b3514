"""The applications as a Serve config file names them: `services.launch.cluster_apps:generator`.

On a cluster each service has pods of its own, whose environment holds its settings alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from services.common.rpc.server import HOST_VARIABLE, PORT_VARIABLE
from services.common.settings import SettingsError, refuse_unknown_variables
from services.launch.service_settings import settings_class

if TYPE_CHECKING:
    from ray import serve


def generator(args: dict[str, Any]) -> serve.Application:
    """The generator, with its settings from the environment; it takes no ``args``."""
    return _build("generator", args)


def classifier(args: dict[str, Any]) -> serve.Application:
    """The classifier, with its settings from the environment; it takes no ``args``."""
    return _build("classifier", args)


def trainer(args: dict[str, Any]) -> serve.Application:
    """The trainer, with its settings from the environment; it takes no ``args``."""
    return _build("trainer", args)


def _build(name: str, args: dict[str, Any]) -> serve.Application:
    if args:
        raise SettingsError(f"args of the {name}: settings are environment variables, not args")
    settings = settings_class(name).load()
    refuse_unknown_variables({*settings.variables(), HOST_VARIABLE, PORT_VARIABLE})
    application: serve.Application = import_module(f"services.{name}.app").build_app(settings)
    return application
