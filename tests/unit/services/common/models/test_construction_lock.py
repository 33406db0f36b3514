"""Loading in one thread leaves the layers that another thread builds intact."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from accelerate import init_empty_weights

from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.construction_lock import builds_models
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from tests.support import fakes

RESNET = ClassifierConfig(architecture="resnet18", class_ids=("a", "b"), image_size=32)


def test_a_model_waits_for_another_threads_loading(tmp_path: Path) -> None:
    loading, may_end = threading.Event(), threading.Event()

    @builds_models
    def load() -> None:
        with init_empty_weights():  # as diffusers does
            loading.set()
            may_end.wait(30)

    built: list[torch.nn.Module] = []
    loader = threading.Thread(target=load)
    builder = threading.Thread(target=lambda: built.append(build_model(RESNET, tmp_path)))
    loader.start()
    assert loading.wait(30)
    builder.start()
    builder.join(1.0)
    assert not built, "it waits"
    may_end.set()
    loader.join()
    builder.join()
    assert not any(parameter.is_meta for parameter in built[0].parameters())


def test_pipelines_and_classifiers_are_built_by_concurrent_threads(tmp_path: Path) -> None:
    fakes.write_tiny_base(tmp_path)
    base, models, pipelines = resolve_base("tiny", tmp_path), [], []
    load_pipeline(base)  # imports

    def build() -> None:
        models.extend(build_model(RESNET, tmp_path) for _ in range(6))

    def load() -> None:
        pipelines.extend(load_pipeline(base) for _ in range(6))

    threads = [threading.Thread(target=each) for each in (build, load, build)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(models), len(pipelines)) == (12, 6)
    assert not any(parameter.is_meta for model in models for parameter in model.parameters())
    assert not any(parameter.is_meta for each in pipelines for parameter in each.unet.parameters())
