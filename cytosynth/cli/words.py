"""The services' messages with options (``--shots``) for fields (``split.shots``).

One table of fields per kind of request; the keys are paths of the API without places in lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cytosynth.client.errors import CytosynthError

SPLIT = {
    "header.split.shots": "--shots",
    "header.split.class_shots": "--shots",
    "header.split.max_test_per_class": "--max-test-per-class",
    "header.split.seed": "--seed",
    "header.center_crop": "--center-crop",
    "header.display_name": "--name",
    "header.idempotency_key": "--idempotency-key",
    "uri": "URI",
}
FIT_ADAPTER = {
    "dataset": "DATASET",
    "base": "--base",
    "settings.preset": "--preset",
    "settings.rank": "--rank",
    "settings.alpha": "--alpha",
    "settings.num_steps": "--adapter-steps",
    "settings.batch_size": "--batch-size",
    "settings.learning_rate": "--learning-rate",
    "settings.per_class": "--separate",
    "settings.seed": "--seed",
    "idempotency_key": "--idempotency-key",
}
FIT_CLASSIFIER = {
    "dataset": "DATASET",
    "settings.preset": "--preset",
    "settings.architecture": "--architecture",
    "settings.clip_base": "--clip-base",
    "settings.resnet_base": "--resnet-base",
    "settings.num_calibration_folds": "--calibration-folds",
    "settings.num_steps": "--classifier-steps",
    "settings.batch_size": "--batch-size",
    "settings.learning_rate": "--learning-rate",
    "settings.weight_decay": "--weight-decay",
    "settings.image_size": "--image-size",
    "settings.seed": "--seed",
    "synthetic.adapter": "--adapter",
    "synthetic.num_per_class": "--per-class",
    "synthetic.seed": "--seed",
    "synthetic.sampler.preset": "--sampler-preset",
    "synthetic.loss_weight": "--loss-weight",
    "idempotency_key": "--idempotency-key",
}
SYNTHESIZE = {
    "adapter": "--adapter",
    "base": "--base",
    "class_counts": "COUNTS",
    "class_counts.class_id": "COUNTS",
    "class_counts.num_images": "COUNTS",
    "seed": "--seed",
    "sampler.preset": "--sampler-preset",
    "sampler.num_steps": "--sampler-steps",
    "sampler.guidance_scale": "--guidance",
    "sampler.guidance_start": "--guidance-start",
    "sampler.guidance_stop": "--guidance-stop",
    "sampler.scheduler": "--scheduler",
    "sampler.decoder": "--decoder",
    "priority": "--priority",
    "image_format": "--format",
    "name": "--adapter",
    # As the folder of a synthesis keeps them.
    "preset": "--sampler-preset",
    "num_steps": "--sampler-steps",
    "guidance_scale": "--guidance",
    "guidance_start": "--guidance-start",
    "guidance_stop": "--guidance-stop",
    "scheduler": "--scheduler",
    "decoder": "--decoder",
}
STUDY = {
    "settings.preset": "--preset",
    "settings.models": "--architectures",
    "settings.arms": "--arms",
    "settings.num_per_class": "--per-class",
    "settings.num_draws": "--replicates",
    "settings.shots": "--shots",
    "settings.class_shots": "--shots",
    "settings.max_test_per_class": "--max-test-per-class",
    "settings.seed": "--seed",
    "settings.base": "--base",
    "settings.clip_base": "--clip-base",
    "settings.num_steps": "--classifier-steps",
    "settings.adapter_steps": "--adapter-steps",
    "settings.sampler_preset": "--sampler-preset",
    "settings.loss_weight": "--loss-weight",
    "settings.transfer_resnet_base": "--transfer-resnet-base",
    "settings.transfer_clip_base": "--transfer-clip-base",
    "settings.feature_space": "--feature-space",
    "settings.hide_images": "--hide-images",
    "title": "--title",
    "data": "--data",
}
REPORT = {
    "dataset": "--dataset",
    "arms": "--arm",
    "arms.model": "--arm",
    "arms.arm": "--arm",
    "arms.classifier": "--arm",
    "title": "--title",
    "idempotency_key": "--idempotency-key",
    "name": "NAME",
}
# A run makes requests of several kinds; these are the options that one of them takes.
_RUN_SPLIT = {path: SPLIT[path] for path in SPLIT if path.startswith("header.split.")}
RUN = {
    **_RUN_SPLIT,
    "data": "--data",
    "shots": "--shots",
    "class_shots": "--shots",
    "num_per_class": "--per-class",
    "base": "--base",
    "clip_base": "--clip-base",
    "max_test_per_class": "--max-test-per-class",
    "preset": "--preset",
    "seed": "--seed",
    "num_steps": "--classifier-steps",
    "adapter_steps": "--adapter-steps",
    "sampler_preset": "--sampler-preset",
    "num_runs": "--repeats",
    "settings.preset": "--preset",
    "settings.seed": "--seed",
    "settings.clip_base": "--clip-base",
    "synthetic.num_per_class": "--per-class",
    "synthetic.seed": "--seed",
    "synthetic.sampler.preset": "--sampler-preset",
}
RUN_FIT_ADAPTER = {**RUN, "settings.num_steps": "--adapter-steps"}
RUN_FIT_CLASSIFIER = {**RUN, "settings.num_steps": "--classifier-steps"}
_PLACE = re.compile(r"\[(?:(\d+)|'?([^\]']*)'?)\]")


def in_words(error: CytosynthError, options: Mapping[str, str]) -> CytosynthError:
    """The error with fields replaced by the options that set them."""
    if not options:
        return error
    message, violations = error.message, []
    for violation in error.field_violations:
        option = _option(violation.field, options)
        if option:
            message = _with_subject(message, violation.field, option)
            violation = type(violation)(option, violation.description)
        violations.append(violation)
    return error.reworded(_replaced(message, options), _replaced(error.remedy, options), violations)


def _with_subject(text: str, field: str, option: str) -> str:
    """Replace ``field`` by ``option`` in ``text``.

    The word stays where it does not name the field.
    """
    pattern = rf"(?<![\w.-]){re.escape(field)}(?=:| was | its | are )"
    return re.sub(pattern, lambda _: option, text)


def _option(field: str, options: Mapping[str, str]) -> str:
    """``--shots (blast)`` for ``header.split.class_shots['blast']``; empty if no option sets it."""
    path = _PLACE.sub("", field)
    option = options.get(path) or _by_end(path, options)
    keys = [match[2] for match in _PLACE.finditer(field) if match[2]]
    return f"{option} ({keys[0]})" if option and keys else option


def _by_end(path: str, options: Mapping[str, str]) -> str:
    """The client names a field without the messages around it."""
    found = {option for key, option in options.items() if key.endswith(f".{path}")}
    return found.pop() if len(found) == 1 else ""


def _replaced(text: str, options: Mapping[str, str]) -> str:
    for path in sorted(options, key=len, reverse=True):
        if "." in path or "_" in path:  # Other words may mean themselves.
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w-]|\.\w)", options[path], text)
    return text
