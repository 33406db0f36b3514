"""Loading in one thread leaves the layers that another thread builds intact."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from accelerate import init_empty_weights

from services.common.models import lora
from services.common.models.construction_lock import builds_models
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from tests.support import fakes


def test_a_model_waits_for_another_threads_loading() -> None:
    loading, may_end = threading.Event(), threading.Event()

    @builds_models
    def load() -> None:
        with init_empty_weights():  # as diffusers does
            loading.set()
            may_end.wait(30)

    @builds_models
    def build() -> None:
        built.append(torch.nn.Linear(2, 2))

    built: list[torch.nn.Linear] = []
    loader, builder = threading.Thread(target=load), threading.Thread(target=build)
    loader.start()
    assert loading.wait(30)
    builder.start()
    builder.join(1.0)
    assert not built, "it waits"
    may_end.set()
    loader.join()
    builder.join()
    assert not any(parameter.is_meta for parameter in built[0].parameters())


def test_a_base_is_loaded_while_an_adapter_of_another_encodes_prompts(tmp_path: Path) -> None:
    fakes.write_tiny_base(tmp_path)
    base = resolve_base("tiny", tmp_path)
    pipeline = load_pipeline(base)
    lora.add_lora(pipeline, lora.LoraSpec(rank=2, alpha=2.0), 0)
    adapter = lora.lora_file(pipeline)
    lora.remove_lora(pipeline)
    [alone] = lora.encode_with_lora(pipeline, adapter, ["a cell"])
    pipelines, encoded = [], []

    def encode() -> None:
        encoded.extend(lora.encode_with_lora(pipeline, adapter, ["a cell"])[0] for _ in range(6))

    def load() -> None:
        pipelines.extend(load_pipeline(base) for _ in range(6))

    threads = [threading.Thread(target=each) for each in (encode, load)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(encoded), len(pipelines)) == (6, 6)
    assert all(torch.equal(each.tokens, alone.tokens) for each in encoded)
    assert not any(parameter.is_meta for each in pipelines for parameter in each.unet.parameters())
