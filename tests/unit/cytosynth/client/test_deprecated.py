"""Keyword arguments of the last release work and name their replacement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cytosynth.client import Client, CytosynthError, SplitSettings, Synthetic
from cytosynth.client import settings as records
from cytosynth.generator.v1 import generator_pb2
from cytosynth.trainer.v1 import trainer_pb2
from tests.support.servers.toy_services.server import ToyServices


def uploads(client: Client, folder: Path) -> object:
    return client.upload_dataset(
        folder, shots=1, class_shots={"blast": 2}, max_test_per_class=7, seed=9
    )


def imports(client: Client, folder: Path) -> object:
    return client.import_dataset("s3://cells", shots=3, seed=2)


def fits_adapter(client: Client, folder: Path) -> object:
    return client.fit_adapter("datasets/d", base="toy", rank=8, num_steps=5)


def fits_classifier(client: Client, folder: Path) -> object:
    return client.fit_classifier("datasets/d", architecture="clip", weight_decay=0.5)


def synthesizes(client: Client, folder: Path) -> object:
    return list(client.synthesize({"blast": 1}, adapter="adapters/a", seed=3, guidance_scale=2.0))


def fills_a_folder(client: Client, folder: Path) -> object:
    return client.synthesize_to_folder(folder / "out", {"blast": 1}, seed=3, preset="fast")


@pytest.mark.parametrize(
    ("call", "replacement"),
    [
        (uploads, r"upload_dataset\(shots=….* pass split=SplitSettings\(shots=…, class_shots=…"),
        (imports, r"pass split=SplitSettings\(shots=…, seed=…\)"),
        (fits_adapter, r"fit_adapter\(rank=….* pass settings=AdapterSettings\(rank=…"),
        (fits_classifier, r"pass settings=ClassifierSettings\(architecture=…, weight_decay=…\)"),
        (
            synthesizes,
            r"pass settings=SynthesisSettings\(adapter=…, seed=…, "
            r"sampler=SamplerSettings\(guidance_scale=…\)\)",
        ),
        (fills_a_folder, r"synthesize_to_folder\(seed=…, preset=…\)"),
    ],
)
def test_an_old_keyword_warns_where_it_was_used(
    client: Client, folder: Path, call: Callable[[Client, Path], object], replacement: str
) -> None:
    with pytest.warns(DeprecationWarning, match=replacement) as caught:
        call(client, folder)
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}


def test_old_keywords_reach_the_services(toy: ToyServices, client: Client, folder: Path) -> None:
    for call in (uploads, fits_adapter, fits_classifier, synthesizes):
        with pytest.warns(DeprecationWarning, match="next release"):
            call(client, folder)
    header = toy.trainer.uploads[0].header
    assert header is not None
    split = header.split
    assert (split.shots, split.max_test_per_class, split.seed) == (1, 7, 9)
    adapter, classifier = toy.trainer.requests
    assert (adapter.base, adapter.settings.rank, adapter.settings.num_steps) == ("toy", 8, 5)
    assert (classifier.settings.architecture, classifier.settings.weight_decay) == ("clip", 0.5)
    request = toy.generator.requests[0]
    assert (request.adapter, request.seed, request.sampler.guidance_scale) == ("adapters/a", 3, 2.0)


def test_the_old_synthetic_record_and_study_mapping_work(toy: ToyServices, client: Client) -> None:
    old = Synthetic("adapters/a", 50, seed=4, preset="fast", num_steps=9, loss_weight=0.6)
    with pytest.warns(DeprecationWarning, match="SyntheticSettings"):
        client.fit_classifier("datasets/d", synthetic=old)
    sent = toy.trainer.requests[0].synthetic
    assert (sent.num_per_class, sent.sampler.preset, sent.sampler.num_steps) == (50, "fast", 9)
    with pytest.warns(DeprecationWarning, match=r"pass settings=StudySettings"):
        client.create_study("datasets/d", settings={"models": ["clip"], "num_draws": 2})
    assert list(toy.trainer.requests[1].settings.models) == ["clip"]
    with pytest.raises(CytosynthError, match="wings: is not a field of StudySettings"):
        client.create_study("datasets/d", settings={"wings": 2})


def test_unknown_keywords_and_a_mixture_are_type_errors(client: Client, folder: Path) -> None:
    with pytest.raises(TypeError, match=r"fit_adapter\(\) got an unexpected keyword.*'rnak'"):
        client.fit_adapter("datasets/d", rnak=8)
    with pytest.raises(TypeError, match="put all of them into split"):
        client.upload_dataset(folder, split=SplitSettings(), seed=1)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (records.SplitSettings, trainer_pb2.SplitSpec),
        (records.AdapterSettings, trainer_pb2.AdapterSettings),
        (records.ClassifierSettings, trainer_pb2.ClassifierSettings),
        (records.SyntheticSettings, trainer_pb2.SyntheticSpec),
        (records.StudySettings, trainer_pb2.StudySettings),
        (records.SamplerSettings, generator_pb2.SamplerSettings),
    ],
)
def test_a_record_has_the_fields_of_its_message(record: Any, message: Any) -> None:
    names = {field.name for field in dataclasses.fields(record)}
    assert names == set(message.DESCRIPTOR.fields_by_name)
