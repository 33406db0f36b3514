"""Adapters: switched without a trace, the least used given up, misfits refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.artifact_store import ArtifactStore
from services.common.bases import load_pipeline, resolve_base
from services.common.errors import DataLoss, NotFound
from services.generator.adapters import AdapterShelf, describe_adapter
from services.generator.config import GeneratorSettings
from services.generator.draw import BatchDrawer
from services.generator.synthesize import (
    ImageTask,
    SynthesisPlan,
    SynthesisRequest,
    make_execution,
    make_plan,
)
from tests import fakes

CLASSES = ("monocyte", "basophil")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    fakes.write_tiny_base(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def loras(models_dir: Path) -> list[bytes]:
    """Three adapters' weights."""
    return [next(iter(fakes.random_lora(models_dir / "tiny", s).values())) for s in range(3)]


class Shelf:
    """A shelf that counts what it reads and shows what the UNet makes of it."""

    def __init__(self, models_dir: Path, loras: list[bytes], capacity: int) -> None:
        self.pipeline = load_pipeline(resolve_base("tiny", models_dir))
        self.shelf = AdapterShelf(self.pipeline, capacity)
        self.loras, self.reads = loras, list[str]()

    def output(self, key: str) -> torch.Tensor:
        """UNet output under the weights called ``key``."""
        self.shelf.activate(key, self._reader(key))
        prompt = self.shelf.prompt("monocyte").tokens[None]
        latents = torch.ones(1, 16, 4, 4)
        with torch.inference_mode():
            return self.pipeline.unet(latents, 500, encoder_hidden_states=prompt).sample

    def _reader(self, key: str) -> Callable[[], bytes]:
        def read() -> bytes:
            self.reads.append(key)
            return self.loras[int(key[-1])]

        return read


def test_switching_leaves_no_trace(models_dir: Path, loras: list[bytes]) -> None:
    keys = ["", "a/0", "a/1", "", "a/2", "a/0", "", "a/1"]
    shelf = Shelf(models_dir, loras, capacity=2)
    outputs = [shelf.output(key) for key in keys]
    fresh = {key: Shelf(models_dir, loras, capacity=1).output(key) for key in set(keys)}
    assert len({tuple(o.flatten().tolist()) for o in fresh.values()}) == 4
    for key, output in zip(keys, outputs, strict=True):
        assert torch.equal(output, fresh[key]), key


def test_least_recently_used_is_given_up(models_dir: Path, loras: list[bytes]) -> None:
    shelf = Shelf(models_dir, loras, capacity=2)
    for key in ("a/0", "a/1", "a/0", "a/2", "a/0", "a/1"):
        shelf.output(key)
        assert len(shelf.shelf) <= 2
    assert shelf.reads == ["a/0", "a/1", "a/2", "a/1"]


def test_misfit_is_refused_and_the_next_adapter_draws(models_dir: Path, loras: list[bytes]) -> None:
    good = Shelf(models_dir, loras, capacity=2)
    reference = good.output("a/0")
    for bad in (b"", b"not safetensors", loras[0][:-8]):
        with pytest.raises(DataLoss, match="do not fit"):
            good.shelf.activate("bad/9", lambda bad=bad: bad)
        assert torch.equal(good.output("a/0"), reference)
    assert torch.equal(good.output(""), Shelf(models_dir, loras, 1).output(""))


class Studio:
    """A drawer over a store with one shared and one per-class adapter."""

    def __init__(self, root: Path, models_dir: Path) -> None:
        self.settings = GeneratorSettings(
            store_uri=f"file://{root}/store",
            models_dir=models_dir,
            default_base="tiny",
            generator_batch_size=4,
            generator_device="cpu",
        )
        self.store = ArtifactStore(self.settings.store_uri)
        self.base = resolve_base("tiny", models_dir)
        for seed, (adapter_id, folders) in enumerate([("one", ["shared"]), ("each", CLASSES)]):
            draft = self.store.new_draft("local", "adapters", adapter_id)
            for i, folder in enumerate(folders):
                lora = fakes.random_lora(models_dir / "tiny", 10 * seed + i)
                for path, data in lora.items():
                    draft.write(f"{folder}/{path}", data)
            layout = "shared" if adapter_id == "one" else "per_class"
            draft.commit(
                {
                    "base": "tiny",
                    "base_revision": self.base.revision,
                    "body": {"layout": layout, "class_ids": list(CLASSES)},
                }
            )
        self.drawer = BatchDrawer(self.settings, self.store)

    def plan(self, adapter_id: str | None) -> SynthesisPlan:
        """Nine images, three steps."""
        adapter = describe_adapter(self.store, "local", adapter_id) if adapter_id else None
        request = SynthesisRequest([("monocyte", 5), ("basophil", 4)], seed=3, num_steps=3)
        return make_plan(request, "local", self.base, adapter, make_execution(self.settings), 100)

    def draw(self, plan: SynthesisPlan, first: int, end: int) -> dict[int, np.ndarray]:
        """Images by index."""
        drawn: dict[int, np.ndarray] = {}
        for batch in plan.batches(first, end):
            images = self.drawer.draw(plan, batch)
            drawn |= {task.index: image for task, image in zip(batch, images, strict=True)}
        return drawn


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"), models_dir)


@pytest.mark.parametrize("adapter_id", [None, "one", "each"])
def test_image_is_the_same_from_any_cut_order_and_replica(
    studio: Studio, models_dir: Path, adapter_id: str | None
) -> None:
    plan = studio.plan(adapter_id)
    whole = studio.draw(plan, 0, 9)
    assert sorted(whole) == list(range(9))
    pieces = studio.draw(plan, 6, 9)
    studio.draw(studio.plan("one"), 0, 1)
    pieces |= studio.draw(plan, 3, 6)
    other = BatchDrawer(studio.settings, studio.store)
    other.warm_up()
    for index in (0, 1, 2):
        task = ImageTask(index, "monocyte", plan.image_seed("monocyte", index))
        [pieces[index]] = other.draw(plan, [task])
    for index, image in whole.items():
        np.testing.assert_array_equal(image, pieces[index], err_msg=str(index))


def test_adapters_change_the_images(studio: Studio) -> None:
    images = [studio.draw(studio.plan(a), 0, 1)[0].tobytes() for a in (None, "one", "each")]
    assert len(set(images)) == 3


def test_adapter_deleted_meanwhile_is_not_found(studio: Studio) -> None:
    with pytest.raises(NotFound):
        describe_adapter(studio.store, "neighbour", "one")


def test_manifest_without_layout_is_data_loss(studio: Studio) -> None:
    studio.store.new_draft("local", "adapters", "bare").commit({"base": "tiny"})
    with pytest.raises(DataLoss, match="adapters/bare"):
        describe_adapter(studio.store, "local", "bare")


def test_plan_for_another_execution_is_refused(studio: Studio) -> None:
    plan = studio.plan(None)
    settings = studio.settings.model_copy(update={"generator_batch_size": 8})
    other = BatchDrawer(settings, studio.store)
    with pytest.raises(Exception, match="settings are not those"):
        other.draw(plan, list(plan.tasks(0, 1)))
