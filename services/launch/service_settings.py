"""The settings of the three services, found by the service's name."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from cytosynth.service_methods import SERVICES
from services.common.settings import CommonSettings, refuse_unknown_variables


def settings_class(name: str) -> type[CommonSettings]:
    """The settings of a service: ``services.<name>.config``."""
    found: type[CommonSettings] = getattr(
        import_module(f"services.{name}.config"), f"{name.capitalize()}Settings"
    )
    return found


def load_all(other_variables: Iterable[str]) -> dict[str, CommonSettings]:
    """Every service's settings from the environment.

    Args:
        other_variables: ``CYTOSYNTH_…`` variables that something else reads.

    Raises:
        SettingsError: a variable is wrong, or nothing reads it.
    """
    settings = {name: settings_class(name).load() for name in SERVICES}
    variables = {name for each in settings.values() for name in each.variables()}
    refuse_unknown_variables({*variables, *other_variables})
    return settings
