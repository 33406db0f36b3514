"""The pipeline against toy services: its requests, their order, its continuation."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cytosynth.client import Client, CytosynthError, Job, JobFailed
from cytosynth.workflows.demo import demo_options
from cytosynth.workflows.pipeline import PipelineOptions, run_pipeline
from cytosynth.workflows.progress import Listener
from services.common.errors import FailedPrecondition
from tests.support.servers.toy_services.server import ToyServices


@pytest.fixture
def client(toy: ToyServices) -> Iterator[Client]:
    with Client(toy.address) as connected:
        yield connected


@pytest.fixture
def options(tmp_path: Path) -> PipelineOptions:
    for class_id in ("blast", "mono"):
        (tmp_path / "cells" / class_id).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "cells" / class_id / f"{number}.png").write_bytes(bytes([number, 1]))
    return PipelineOptions(
        data=tmp_path / "cells",
        out=tmp_path / "out",
        class_shots={"blast": 2, "mono": 1},
        num_per_class=7,
        base="toy",
        clip_base="toy-clip",
        max_test_per_class=3,
        seed=5,
    )


def test_every_part_is_asked_for_once(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    outcome = run_pipeline(client, options)
    header = toy.trainer.uploads[0].header
    assert header is not None
    assert dict(header.split.class_shots) == {"blast": 2, "mono": 1}
    assert (header.split.seed, header.split.max_test_per_class) == (5, 3)
    adapter, *fits, report = toy.trainer.requests
    assert (adapter.dataset, adapter.base, adapter.settings.preset) == ("datasets/d1", "toy", "cpu")
    arms = [
        (fit.settings.architecture, fit.settings.clip_base, fit.synthetic.num_per_class)
        for fit in fits
    ]
    assert arms == [
        ("resnet18", "", 0),
        ("resnet18", "", 7),
        ("clip", "toy-clip", 0),
        ("clip", "toy-clip", 7),
    ]
    assert {fit.synthetic.adapter for fit in fits if fit.HasField("synthetic")} == {"adapters/a1"}
    assert [(arm.model, arm.arm) for arm in report.arms] == [
        ("resnet18", "real_only"),
        ("resnet18", "real_plus_synthetic"),
        ("clip", "real_only"),
        ("clip", "real_plus_synthetic"),
    ]
    assert outcome.report["arms"]["clip"]["real_only"]["macro_f1"] == 0.7
    assert outcome.html_path.is_file()
    assert outcome.adapter == "adapters/a1"


def test_the_report_has_the_seconds_of_the_phases(client: Client, options: PipelineOptions) -> None:
    outcome = run_pipeline(client, options, start_seconds=12.5)
    assert outcome.report["seconds"]["start_services"] == 12.5
    assert set(outcome.seconds) == {
        "start_services",
        "upload",
        "fit_adapter",
        "fit_resnet18_real_only",
        "fit_resnet18_real_plus_synthetic",
        "fit_clip_real_only",
        "fit_clip_real_plus_synthetic",
        "classify",
        "report",
    }


def test_the_paper_preset_is_the_same_pipeline_with_larger_models(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    run_pipeline(client, dataclasses.replace(options, preset="paper"))
    fits = toy.trainer.requests[1:-1]
    assert [fit.settings.architecture for fit in fits] == ["resnet50", "resnet50", "clip", "clip"]
    assert fits[1].synthetic.sampler.preset == "paper"


def test_repeated_runs_have_their_own_seeds(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    run_pipeline(client, dataclasses.replace(options, num_runs=2))
    assert [fit.settings.seed for fit in toy.trainer.requests[1:-1]] == [5, 6] * 4


def test_a_run_that_failed_goes_on_where_it_was(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    toy.trainer.job_errors["fit_classifier"] = FailedPrecondition("disk", "is full", "free some")
    with pytest.raises(JobFailed, match="disk: is full; free some"):
        run_pipeline(client, options)
    assert len(toy.trainer.requests) == 2  # The adapter, and the classifier that failed.
    run_pipeline(client, options)
    kinds = [type(request).__name__ for request in toy.trainer.requests]
    assert kinds.count("CreateAdapterRequest") == 1  # It was found again, not made again.
    assert kinds.count("CreateClassifierRequest") == 5  # The failed one has a successor.
    keys = {upload.header.idempotency_key for upload in toy.trainer.uploads if upload.header}
    assert len(keys) == 1


def test_a_finished_run_starts_anew(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    run_pipeline(client, options)
    run_pipeline(client, options)
    keys = {upload.header.idempotency_key for upload in toy.trainer.uploads if upload.header}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 6}, r"holds another run: seed was 5, is 6"),
        ({"class_shots": {"blast": 1}}, r"class_shots was \{'blast': 2, 'mono': 1\}, is"),
        ({"adapter_steps": 3, "num_per_class": 8}, "adapter_steps was 0, is 3, num_per_class was"),
    ],
)
def test_other_options_in_the_same_folder_are_refused(
    toy: ToyServices, client: Client, options: PipelineOptions, changes: Any, told: str
) -> None:
    run_pipeline(client, options)
    report = (options.out / "report.json").read_bytes()
    with pytest.raises(CytosynthError, match=told) as caught:
        run_pipeline(client, dataclasses.replace(options, **changes))
    assert "choose another --out" in caught.value.remedy
    assert {item.field for item in caught.value.field_violations} == set(changes)
    assert (options.out / "report.json").read_bytes() == report
    assert len(toy.trainer.uploads) == 1


def test_other_images_in_the_same_folder_are_refused(
    client: Client, options: PipelineOptions
) -> None:
    run_pipeline(client, options)
    (options.data / "mono/0.png").write_bytes(b"\7another")
    with pytest.raises(CytosynthError, match="data its images were others when the run began"):
        run_pipeline(client, options)


def test_an_option_that_an_earlier_version_did_not_have_was_the_default(
    client: Client, options: PipelineOptions
) -> None:
    run_pipeline(client, options)
    path = options.out / "run.json"
    state = json.loads(path.read_text())
    del state["options"]["sampler_preset"]
    path.write_text(json.dumps(state))
    with pytest.raises(CytosynthError, match="sampler_preset was '', is 'draft'"):
        run_pipeline(client, dataclasses.replace(options, sampler_preset="draft"))
    run_pipeline(client, options)


def test_the_folder_of_an_earlier_version_is_refused(
    client: Client, options: PipelineOptions
) -> None:
    options.out.mkdir()
    old = {"run_id": "r", "request": "0" * 64, "finished": True, "seconds": {}}
    (options.out / "run.json").write_text(json.dumps(old))
    with pytest.raises(CytosynthError, match="options are an earlier version's"):
        run_pipeline(client, options)


def test_the_same_data_by_another_path_is_the_same_run(
    toy: ToyServices, client: Client, options: PipelineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pipeline(client, options)
    monkeypatch.chdir(options.data.parent)
    run_pipeline(client, dataclasses.replace(options, data=Path("cells")))


def test_an_interrupted_job_goes_on_and_is_found_again(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    class Impatient(Listener):
        def job(self, job: Job) -> None:
            if job.progress.step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(client, options, Impatient())
    [job] = client.list_jobs()
    assert job.state != "CANCELLED"
    run_pipeline(client, options)
    assert client.job(job.name).job.state == "SUCCEEDED"
    kinds = [type(request).__name__ for request in toy.trainer.requests]
    assert kinds.count("CreateAdapterRequest") == 1


def test_adapter_steps_and_sampler_preset_reach_the_trainer(
    toy: ToyServices, client: Client, options: PipelineOptions
) -> None:
    wanted = dataclasses.replace(
        options, adapter_steps=9, sampler_preset="draft", calibration_folds=0
    )
    run_pipeline(client, wanted)
    adapter, *fits, _ = toy.trainer.requests
    assert adapter.settings.num_steps == 9
    assert {fit.settings.num_calibration_folds for fit in fits} == {0}
    assert all(fit.settings.HasField("num_calibration_folds") for fit in fits)
    assert {fit.synthetic.sampler.preset for fit in fits if fit.HasField("synthetic")} == {"draft"}


def test_a_folder_whose_name_is_not_text_is_uploaded(
    toy: ToyServices, client: Client, options: PipelineOptions, tmp_path: Path
) -> None:
    renamed = tmp_path / os.fsdecode(b"caf\xe9")
    options.data.rename(renamed)
    run_pipeline(client, dataclasses.replace(options, data=renamed))
    header = toy.trainer.uploads[0].header
    assert header is not None
    assert header.display_name == "caf\\udce9"


def test_a_damaged_run_file_is_started_anew(client: Client, options: PipelineOptions) -> None:
    options.out.mkdir()
    (options.out / "run.json").write_text('{"run_id": 3')
    run_pipeline(client, options)
    assert json.loads((options.out / "run.json").read_text())["finished"] is True


def test_the_demo_hospital_is_long_tailed_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytosynth.workflows.demo.IMAGES_PER_CLASS", 3)
    options = demo_options(tmp_path / "demo")
    images = {path: path.read_bytes() for path in options.data.rglob("*.png")}
    assert {path.parent.name for path in images} == set(options.class_shots)
    assert len(images) == 3 * len(options.class_shots)
    assert sorted(options.class_shots.values()) == [4, 6, 8, 10, 14, 16]
    assert options.num_per_class >= 100
    (options.data / "lymphocyte/0001.png").write_bytes(b"an earlier demo, cut off")
    demo_options(tmp_path / "demo")
    assert images == {path: path.read_bytes() for path in options.data.rglob("*.png")}
