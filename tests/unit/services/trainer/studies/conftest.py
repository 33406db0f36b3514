"""Surroundings of small studies: settings, store, fake generator, count of trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.store.artifacts import ArtifactStore
from services.trainer.studies import trials
from tests.support.few_shot import FakeGenerator, serve_images, tiny_settings
from tests.support.studies import make_quick


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for reproducible sums, small batches and short recalibration."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    make_quick(monkeypatch)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path, quick: None) -> Any:
    return tiny_settings(tmp_path)


@pytest.fixture
def store(settings: Any) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    fake = FakeGenerator()
    serve_images(monkeypatch, fake)
    return fake


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int, str]]:
    """How often each classifier was trained: architecture, seed, images."""
    counts: Counter[tuple[str, int, str]] = Counter()
    really = trials.train_and_test

    def count(model: Any, hyper: Any, config: Any, real: Any, synthetic: Any, *rest: Any) -> Any:
        added = 0 if synthetic is None else len(synthetic.wait_for(1.0).labels)
        counts[hyper.architecture, hyper.seed, f"{len(real.labels)}+{added}"] += 1
        return really(model, hyper, config, real, synthetic, *rest)

    monkeypatch.setattr(trials, "train_and_test", count)
    return counts
