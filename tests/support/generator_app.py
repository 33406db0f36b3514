"""The generator's Serve app on a tiny base, and a client."""

from __future__ import annotations

import contextlib
import io
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from PIL import Image

from cytosynth.generator.v1 import generator_pb2 as pb
from cytosynth.generator.v1 import generator_pb2_grpc
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES, NearDuplicateHashes
from services.common.models.diffusion_bases import resolve_base
from services.common.store.artifacts import ArtifactStore
from tests.support import fakes
from tests.support.servers.local_serve import local_serve

BATCH = 4
CLASSES = ("monocyte", "basophil", "myeloblast")
ONE = ("monocyte", 1)


@dataclass
class Running:
    """A running generator and a client's stub for it."""

    stub: generator_pb2_grpc.GeneratorServiceStub
    base_revision: str

    def images(self, request: pb.SynthesizeRequest, tenant: str = "") -> list[Any]:
        """All responses to a request."""
        metadata = [("x-cytosynth-tenant", tenant)] if tenant else []
        return list(self.stub.Synthesize(request, timeout=120, metadata=metadata))


@contextmanager
def running_generator(root: Path, **settings: Any) -> Iterator[Running]:
    """Run the generator with ``settings``; a client is connected to it."""
    models_dir = root / "models"
    base_folder = fakes.write_tiny_base(models_dir, "tiny", class_ids=CLASSES)
    fakes.write_tiny_decoder(base_folder)
    fakes.write_distillation_lora(base_folder)
    fakes.write_bespoke_solver(base_folder, fakes.bespoke_solver(4, 2))
    fakes.write_tiny_base(models_dir, "other", seed=1)
    base = resolve_base("tiny", models_dir)
    store = ArtifactStore(f"file://{root}/store")
    write_adapters(store, base_folder, base.revision)
    os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
    # Imported late: Ray reads its environment when it is imported.
    from services.generator.app import APP_NAME, build_app
    from services.generator.config import GeneratorSettings

    own = GeneratorSettings(
        store_uri=f"file://{root}/store",
        models_dir=models_dir,
        default_base="tiny",
        generator_num_slots=2 * BATCH,
        generator_num_threads=1,
        **settings,
    )
    with local_serve(build_app(own), APP_NAME) as address:
        with grpc.insecure_channel(address) as channel:
            yield Running(generator_pb2_grpc.GeneratorServiceStub(channel), base.revision)


def small_batches(root: Path) -> AbstractContextManager[Running]:
    """The generator with shards as small as its batch."""
    return running_generator(root, generator_shard_num_images=BATCH, generator_recovery_seconds=600)


def write_adapters(store: ArtifactStore, base_folder: Path, revision: str) -> None:
    """Write ``mixed`` (one LoRA), ``split`` (one per class), and three misfits."""
    known = list(CLASSES[:2])
    weights = {c: fakes.random_lora(base_folder, seed) for seed, c in enumerate(("shared", *known))}
    cases: list[tuple[str, str, list[str], dict[str, str]]] = [
        ("mixed", "shared", ["shared"], {}),
        ("split", "per_class", known, {}),
        ("foreign", "shared", ["shared"], {"base": "other"}),
        ("outdated", "shared", ["shared"], {"base_revision": "0" * 64}),
        ("copying", "shared", ["shared"], {}),
    ]
    for adapter_id, layout, folders, changed in cases:
        draft = store.new_draft("local", "adapters", adapter_id)
        for folder in folders:
            for path, data in weights[folder].items():
                draft.write(f"{folder}/{path}", data)
        if adapter_id == "copying":  # whatever it gives counts as a copy
            hashes = NearDuplicateHashes(np.zeros(1, np.uint64), max_bits=64)
            draft.write(NEAR_DUPLICATE_HASHES, hashes.to_json())
        manifest = {"base": "tiny", "base_revision": revision, **changed}
        draft.commit({**manifest, "body": {"layout": layout, "class_ids": known}})


def ask(*counts: tuple[str, int], **fields: Any) -> pb.SynthesizeRequest:
    """A request of three steps, for speed."""
    fields.setdefault("sampler", pb.SamplerSettings(num_steps=3))
    return pb.SynthesizeRequest(
        class_counts=[pb.ClassCount(class_id=c, num_images=n) for c, n in counts], **fields
    )


def pixels(response: Any) -> np.ndarray:
    """The decoded image."""
    return np.asarray(Image.open(io.BytesIO(response.image)))


def series_of(tenant: str) -> Counter[str]:
    """The tenant's series as Prometheus scrapes them from Ray, summed."""
    import ray

    [node] = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    prefix, totals = "ray_cytosynth_generator_", Counter[str]()
    for line in text.splitlines():
        if line.startswith(prefix) and f'tenant="{tenant}"' in line:
            name = line.removeprefix(prefix).partition("{")[0]
            totals[name] += float(line.rpartition(" ")[2])
    return totals


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def swallow(stream: Any) -> Iterator[Any]:
    """The messages of a stream until it is cancelled."""
    with contextlib.suppress(grpc.RpcError):
        yield from stream


def cpu_seconds(process: psutil.Process, seconds: float) -> float:
    """CPU time per second that a process uses while we wait."""
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - started)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Fail unless the condition holds within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"


def sampler(**fields: Any) -> pb.SamplerSettings:
    """Sampler settings by keyword."""
    return pb.SamplerSettings(**fields)
