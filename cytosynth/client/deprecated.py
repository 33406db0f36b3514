"""Keyword arguments of the last release, moved into settings records."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from cytosynth.client.errors import invalid_argument
from cytosynth.client.records import Synthetic
from cytosynth.client.settings import SamplerSettings, StudySettings, SyntheticSettings

Record = TypeVar("Record")


def settings_or_keywords(
    record_type: type[Record],
    given: Record | None,
    keywords: Mapping[str, Any],
    call: str,
    parameter: str = "settings",
) -> Record:
    """The given settings, or a record of deprecated keyword arguments.

    Args:
        record_type: Which record the call takes now.
        given: The record that was passed, if any.
        keywords: Keyword arguments that the call does not name.
        call: Name of the call, for messages.
        parameter: Name of the parameter that takes the record.

    Raises:
        TypeError: A keyword is unknown, or both kinds of arguments were passed.
    """
    if not keywords:
        return given if given is not None else record_type()
    own = {field.name for field in dataclasses.fields(record_type)}  # type: ignore[arg-type]
    of_sampler = {field.name for field in dataclasses.fields(SamplerSettings)}
    if "sampler" not in own:
        of_sampler = set()
    for name in keywords:
        if name not in own | of_sampler:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
    names = ", ".join(f"{name}=…" for name in keywords)
    if given is not None:
        raise TypeError(f"{call}() got {parameter} and {names}; put all of them into {parameter}")
    values = {name: value for name, value in keywords.items() if name in own}
    sampler = {name: value for name, value in keywords.items() if name not in own}
    nested = ", ".join(f"{name}=…" for name in values)
    if sampler:
        values["sampler"] = SamplerSettings(**sampler)
        inner = f"sampler=SamplerSettings({', '.join(f'{name}=…' for name in sampler)})"
        nested = f"{nested}, {inner}" if nested else inner
    _warn(
        f"{call}({names}) is deprecated and ends with the next release; "
        f"pass {parameter}={record_type.__name__}({nested})"
    )
    return record_type(**values)


def synthetic_settings(given: SyntheticSettings | Synthetic | None) -> SyntheticSettings | None:
    """The synthetic part of a training set, also from the deprecated record."""
    if not isinstance(given, Synthetic):
        return given
    _warn(
        "Synthetic is deprecated and ends with the next release; "
        "pass SyntheticSettings(…, sampler=SamplerSettings(…))"
    )
    sampler = SamplerSettings(given.preset, given.num_steps, given.guidance_scale, given.scheduler)
    return SyntheticSettings(
        given.adapter, given.num_per_class, given.seed, sampler, given.loss_weight
    )


def study_settings(given: StudySettings | Mapping[str, Any] | None) -> StudySettings:
    """Settings of a study, also from a mapping by field name."""
    if given is None:
        return StudySettings()
    if isinstance(given, StudySettings):
        return given
    known = {field.name for field in dataclasses.fields(StudySettings)}
    for name in given:
        if name not in known:
            raise invalid_argument(name, "is not a field of StudySettings", "see its docstring")
    _warn(
        "create_study(settings={…}) is deprecated and ends with the next release; "
        "pass settings=StudySettings(…)"
    )
    return StudySettings(**given)


def _warn(text: str) -> None:
    # The caller of the client's method is two frames above the helper that calls this one.
    warnings.warn(text, DeprecationWarning, stacklevel=4)
