"""Light load on all three services, so that every series has data."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from PIL import Image

from cytosynth.client import (
    AdapterSettings,
    ClassifierSettings,
    Client,
    CytosynthError,
    SamplerSettings,
    SplitSettings,
    SynthesisSettings,
    SyntheticSettings,
)

CLASSES = ("lymphocyte", "monocyte", "myelocyte")
_NUM_DRAWN = 14
_SEED = 5


class Load:
    """Traffic with one adapter and one classifier, until it is stopped."""

    def __init__(self, client: Client, work: Path) -> None:
        self._client, self._work = client, work
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.num_calls = self.num_failed = 0

    def begin(self) -> None:
        """Makes adapter and classifier; returns when the traffic runs.

        The adapter is fitted to images of its base, for one step, so it generates nearly the same
        again. The gate must withhold these near-duplicates.
        """
        client, counts = self._client, dict.fromkeys(CLASSES, _NUM_DRAWN)
        plain = SynthesisSettings(seed=_SEED)
        self._cells = [(cell.class_id, cell.data) for cell in client.synthesize(counts, plain)]
        folder = self._work / "cells"
        for number, (class_id, data) in enumerate(self._cells):
            path = folder / class_id / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(data)) as image:  # without the note that a model made it
                Image.frombytes(image.mode, image.size, image.tobytes()).save(path)
        self._dataset = client.upload_dataset(
            folder, split=SplitSettings(shots=7), center_crop=1.0
        ).name
        hardly = AdapterSettings(num_steps=1, learning_rate=1e-6, per_class=False)
        job = client.fit_adapter(self._dataset, hardly)
        self._adapter = job.wait().result
        self._threads = [
            threading.Thread(target=self._repeat, args=(act,), daemon=True)
            for act in (self._classify, self._synthesize, self._look)
        ]
        synthetic = SyntheticSettings(adapter=self._adapter, num_per_class=8, seed=1)
        settings = ClassifierSettings(architecture="resnet18", num_steps=8)
        job = client.fit_classifier(self._dataset, settings, synthetic=synthetic)
        self._classifier = job.wait().result
        for thread in self._threads:
            thread.start()
        list(client.synthesize(counts, SynthesisSettings(self._adapter, seed=_SEED)))

    def start_long_job(self) -> str:
        """A job that would take long; its name."""
        return self._client.fit_adapter(self._dataset, AdapterSettings(num_steps=100_000)).name

    def end(self) -> None:
        """Stops the traffic."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, act: object) -> None:
        assert callable(act)
        while not self._stop.is_set():
            self.num_calls += 1
            try:
                act()
            except CytosynthError:
                self.num_failed += 1
            self._stop.wait(1.0)

    def _classify(self) -> None:
        self._client.classify([data for _, data in self._cells[::6]], model=self._classifier)

    def _synthesize(self) -> None:
        counts = dict.fromkeys(CLASSES, 2)
        sampler = SamplerSettings(num_steps=6)
        wanted = SynthesisSettings(self._adapter, seed=_SEED, sampler=sampler)
        list(self._client.synthesize(counts, wanted, max_failures=1))
        self._stop.wait(3.0)

    def _look(self) -> None:
        self._client.list_jobs()
        self._client.list_models()
