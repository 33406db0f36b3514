"""Settings records to protobuf messages, for all requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cytosynth.classifier.v1 import classifier_pb2
from cytosynth.client import settings
from cytosynth.client.errors import invalid_argument
from cytosynth.common.v1 import image_pb2
from cytosynth.generator.v1 import generator_pb2
from cytosynth.trainer.v1 import trainer_pb2

IMAGE_FORMATS = {
    image_pb2.ImageFormat.Name(code).removeprefix("IMAGE_FORMAT_").lower(): code
    for code in image_pb2.ImageFormat.values()
    if code != image_pb2.IMAGE_FORMAT_UNSPECIFIED
}
PRIORITIES = {"": generator_pb2.PRIORITY_UNSPECIFIED} | {
    generator_pb2.Priority.Name(code).removeprefix("PRIORITY_").lower(): code
    for code in generator_pb2.Priority.values()
    if code != generator_pb2.PRIORITY_UNSPECIFIED
}
_MESSAGES: dict[type, Any] = {
    settings.SplitSettings: trainer_pb2.SplitSpec,
    settings.AdapterSettings: trainer_pb2.AdapterSettings,
    settings.ClassifierSettings: trainer_pb2.ClassifierSettings,
    settings.SyntheticSettings: trainer_pb2.SyntheticSpec,
    settings.StudySettings: trainer_pb2.StudySettings,
    settings.AnswerOptions: classifier_pb2.AnswerOptions,
    settings.SamplerSettings: generator_pb2.SamplerSettings,
}


def message(record: Any) -> Any:
    """The message that a settings record stands for.

    Raises:
        CytosynthError: ``INVALID_ARGUMENT``, naming a value that its field cannot hold.
    """
    return checked(_MESSAGES[type(record)], **_fields(record))


def synthesize_request(
    class_counts: Mapping[str, int], wanted: settings.SynthesisSettings, first_index: int
) -> generator_pb2.SynthesizeRequest:
    """A request for images from ``first_index`` to the end; raises as ``message``."""
    if wanted.image_format not in IMAGE_FORMATS:
        raise invalid_argument(
            "image_format",
            f"{wanted.image_format!r} is unknown",
            f"one of {', '.join(IMAGE_FORMATS)}",
        )
    if wanted.priority not in PRIORITIES:
        raise invalid_argument("priority", f"{wanted.priority!r} is unknown", "interactive or bulk")
    counts = [
        checked(generator_pb2.ClassCount, class_id=class_id, num_images=count)
        for class_id, count in class_counts.items()
    ]
    request: generator_pb2.SynthesizeRequest = checked(
        generator_pb2.SynthesizeRequest,
        adapter=wanted.adapter,
        base=wanted.base,
        class_counts=counts,
        seed=wanted.seed,
        sampler=message(wanted.sampler),
        priority=generator_pb2.Priority.Name(PRIORITIES[wanted.priority]),
        first_index=first_index,
        image_format=image_pb2.ImageFormat.Name(IMAGE_FORMATS[wanted.image_format]),
    )
    return request


def checked(message_type: Any, **fields: Any) -> Any:
    """Build a message; raises as ``message``."""
    for name, value in fields.items():
        try:
            message_type(**{name: value})
        except (TypeError, ValueError) as error:
            raise invalid_argument(name, str(error)) from None
    return message_type(**fields)


def _fields(record: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            value = message(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        values[field.name] = value
    return values
