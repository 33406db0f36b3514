"""The client against real gRPC servers whose answers are known by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
    GeneratorClient,
    JobFailed,
    ReportArm,
    Synthetic,
    read_image_tree,
)
from cytosynth.client.connection import retry_delay
from services.common.errors import FailedPrecondition, ResourceExhausted
from tests.support.fakes_server import MANIFEST, MANIFEST_DIGEST, Break, ToyServices, toy_services

ROOT = Path(__file__).resolve().parents[4]
COUNTS = {"blast": 3, "mono": 2}
IN_ORDER = [(0, "blast"), (1, "blast"), (2, "blast"), (3, "mono"), (4, "mono")]


@pytest.fixture
def toy() -> Iterator[ToyServices]:
    with toy_services() as services:
        yield services


@pytest.fixture
def client(toy: ToyServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    for module in ("generator", "trainer.jobs", "trainer.upload", "trainer.report_files"):
        monkeypatch.setattr(f"cytosynth.client.{module}.retry_delay", lambda failures: 0.01)
    with Client(toy.address, tenant="ward-3") as connected:
        yield connected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """blast: 3 images, mono: 2; first bytes 200… and 10…"""
    root = tmp_path / "cells"
    for class_id, num_images, first_byte in (("blast", 3, 200), ("mono", 2, 10)):
        (root / class_id).mkdir(parents=True)
        for number in range(num_images):
            (root / class_id / f"{number}.png").write_bytes(bytes([first_byte + number, 1, 2]))
    return root


# Synthesis


def test_images_come_in_order_with_seed_and_manifest(toy: ToyServices, client: Client) -> None:
    images = list(client.synthesize(COUNTS, adapter="adapters/a", seed=5, preset="fast"))
    assert [(image.index, image.class_id) for image in images] == IN_ORDER
    assert images[4].data == b"mono:4"
    assert images[4].image_seed == 1004
    assert (images[0].width, images[0].height) == (64, 48)
    assert all(image.manifest == MANIFEST for image in images)
    assert {image.manifest_digest for image in images} == {MANIFEST_DIGEST}
    request = toy.generator.requests[0]
    assert (request.adapter, request.seed, request.sampler.preset) == ("adapters/a", 5, "fast")
    assert not request.sampler.HasField("num_steps")
    assert toy.generator.metadata[0]["x-cytosynth-tenant"] == "ward-3"


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN],
)
def test_a_broken_stream_goes_on_at_the_next_index(
    toy: ToyServices, client: Client, code: grpc.StatusCode
) -> None:
    toy.generator.breaks = [Break(2, code), Break(0, code), Break(1, code)]
    images = list(client.synthesize(COUNTS))
    assert [(image.index, image.class_id) for image in images] == IN_ORDER
    assert [request.first_index for request in toy.generator.requests] == [0, 2, 2, 3]


def test_a_break_after_the_last_image_loses_nothing(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(5)]
    assert len(list(client.synthesize(COUNTS))) == 5
    assert len(toy.generator.requests) == 1


def test_it_gives_up_after_failures_without_progress(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(2)] + [Break(0)] * 9
    images = []
    with pytest.raises(CytosynthError, match="gave up at image 2 of 5") as caught:
        images.extend(client.synthesize(COUNTS, max_failures=4))
    assert caught.value.code == "UNAVAILABLE"
    assert [request.first_index for request in toy.generator.requests] == [0, 2, 2, 2]


@pytest.mark.parametrize(("images_before", "num_tries"), [(0, 10), (2, 66)])
def test_a_stream_under_way_is_tried_for_as_long_as_a_restart_takes(
    toy: ToyServices,
    client: Client,
    images_before: int,
    num_tries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client._connection, "pause", waits.append)
    toy.generator.breaks = [Break(images_before)] + [Break(0)] * 100
    with pytest.raises(CytosynthError, match=f"{num_tries} failures in a row"):
        list(client.synthesize(COUNTS))
    assert len(toy.generator.requests) == num_tries
    assert len(waits) == num_tries - 1
    real_waits = sum(retry_delay(number) for number in range(1, num_tries))
    assert real_waits > (300 if images_before else 20)


def test_a_restarted_server_is_found_again(toy: ToyServices) -> None:
    with GeneratorClient(toy.address) as client:
        toy.generator.breaks = [Break(1)]
        stream = client.synthesize(COUNTS)
        assert next(stream).index == 0
        toy.stop()
        threading.Timer(0.5, toy.start).start()
        assert [image.index for image in stream] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("skip", "missing"), ("double", "doubled"), ("new_manifest_from", "the model changed")],
)
def test_gaps_doubles_and_changed_models_are_refused(
    toy: ToyServices, client: Client, fault: str, message: str
) -> None:
    setattr(toy.generator, fault, 2)
    with pytest.raises(CytosynthError, match=message) as caught:
        list(client.synthesize(COUNTS))
    assert caught.value.code == "DATA_LOSS"


def test_a_model_changed_between_two_tries_is_refused(toy: ToyServices, client: Client) -> None:
    toy.generator.breaks = [Break(2)]
    stream = client.synthesize(COUNTS)
    next(stream)
    next(stream)
    toy.generator.new_manifest_from = 2
    with pytest.raises(CytosynthError, match="the model changed at image 2"):
        list(stream)


def test_a_refusal_names_field_and_remedy_and_is_not_tried_again(
    toy: ToyServices, client: Client
) -> None:
    with pytest.raises(CytosynthError) as caught:
        list(client.synthesize({"blast": -1}))
    error = caught.value
    assert error.code == "INVALID_ARGUMENT"
    assert error.field_violations[0].field == "class_counts[0].num_images"
    assert error.remedy == "send 1 or more"
    assert error.request_id == "request-7"
    assert str(error) == "class_counts[0].num_images: is -1; send 1 or more"
    assert len(toy.generator.requests) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"seed": 2**70}, {"image_format": "gif"}, {"priority": "now"}, {"guidance_scale": "high"}],
)
def test_values_that_no_field_can_hold_are_told_before_sending(
    toy: ToyServices, client: Client, wrong: dict[str, object]
) -> None:
    with pytest.raises(CytosynthError) as caught:
        client.synthesize(COUNTS, **wrong)  # type: ignore[arg-type]
    assert caught.value.code == "INVALID_ARGUMENT"
    assert toy.generator.requests == []


def test_closing_ends_a_wait_in_another_thread(toy: ToyServices) -> None:
    toy.stop()
    lonely = GeneratorClient(toy.address)
    caught: list[CytosynthError] = []

    def pull() -> None:
        try:
            list(lonely.synthesize(COUNTS, max_failures=100))
        except CytosynthError as error:
            caught.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    time.sleep(0.3)
    lonely.close()
    thread.join(5)
    assert not thread.is_alive()
    assert caught[0].code == "CANCELLED"


def test_capabilities(client: Client) -> None:
    found = client.capabilities()
    assert found.bases == ("toy",)
    assert found.presets == {"fast": {"num_steps": 2, "guidance_scale": 1.5}}
    assert found.image_size == {"toy": 64}


def test_delays_grow_and_stay_bounded() -> None:
    assert [retry_delay(n) for n in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert retry_delay(1000) == 5.0


# Synthesis to a folder


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_a_folder_gets_imagefolder_layout_and_metadata(client: Client, tmp_path: Path) -> None:
    done = client.synthesize_to_folder(tmp_path / "out", COUNTS, seed=3)
    assert (done.num_images, done.num_resumed, done.manifest_digest) == (5, 0, MANIFEST_DIGEST)
    assert (tmp_path / "out/mono/000004.png").read_bytes() == b"mono:4"
    lines = _lines(tmp_path / "out")
    assert lines[4]["file_name"] == "mono/000004.png"
    assert (lines[4]["class"], lines[4]["index"], lines[4]["image_seed"]) == ("mono", 4, 1004)
    body = json.loads((tmp_path / "out/synthesis.json").read_text())
    assert body["manifest"] == MANIFEST


def test_an_interrupted_folder_is_completed(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.synthesize_to_folder(out, COUNTS, on_progress=stop)
    with (out / "metadata.jsonl").open("a") as table:
        table.write('{"file_name": "blast/0000')  # A line that a kill cut off.
    (out / "blast/.partial-x").write_bytes(b"half")
    done = client.synthesize_to_folder(out, COUNTS)
    assert (done.num_images, done.num_resumed) == (5, 2)
    assert toy.generator.requests[-1].first_index == 2
    assert [line["index"] for line in _lines(out)] == [0, 1, 2, 3, 4]
    assert not list(out.rglob(".partial-*"))
    assert client.synthesize_to_folder(out, COUNTS).num_resumed == 5
    assert len(toy.generator.requests) == 2  # The third call had nothing to ask for.


def test_a_damaged_image_is_drawn_again(toy: ToyServices, client: Client, tmp_path: Path) -> None:
    client.synthesize_to_folder(tmp_path / "out", COUNTS)
    (tmp_path / "out/blast/000001.png").write_bytes(b"")
    assert client.synthesize_to_folder(tmp_path / "out", COUNTS).num_resumed == 1
    assert (tmp_path / "out/blast/000001.png").read_bytes() == b"blast:1"
    assert len(_lines(tmp_path / "out")) == 5


def test_a_folder_is_completed_at_another_priority_and_from_older_requests(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client.synthesize_to_folder(out, COUNTS, seed=1, num_steps=None)
    (out / "mono/000003.png").unlink()
    fields = {"base": "", "guidance_start": None, "priority": "bulk"}
    assert client.synthesize_to_folder(out, COUNTS, seed=1, **fields).num_resumed == 3
    with pytest.raises(CytosynthError, match=r"guidance_start was None"):
        client.synthesize_to_folder(out, COUNTS, seed=1, guidance_start=0.0)


def test_another_request_or_foreign_files_are_not_mixed_in(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    client.synthesize_to_folder(tmp_path / "out", COUNTS, seed=1)
    with pytest.raises(CytosynthError, match="another synthesis"):
        client.synthesize_to_folder(tmp_path / "out", COUNTS, seed=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.doc").write_text("do not touch")
    with pytest.raises(CytosynthError, match=r"thesis\.doc"):
        client.synthesize_to_folder(tmp_path / "mine", COUNTS)
    toy.generator.breaks = [Break(2)]
    with pytest.raises(CytosynthError):
        client.synthesize_to_folder(tmp_path / "half", COUNTS, max_failures=1)
    toy.generator.new_manifest_from = 0
    with pytest.raises(CytosynthError, match="changed since this folder was begun"):
        client.synthesize_to_folder(tmp_path / "half", COUNTS, max_failures=1)


def test_a_refused_request_leaves_no_folder(client: Client, tmp_path: Path) -> None:
    with pytest.raises(CytosynthError):
        client.synthesize_to_folder(tmp_path / "out", {"unknown": 2})
    assert not (tmp_path / "out").exists()


def test_a_killed_process_leaves_a_folder_that_can_be_completed(
    toy: ToyServices, client: Client, tmp_path: Path
) -> None:
    out, counts = tmp_path / "out", {"blast": 1500}
    code = (
        "import sys; from cytosynth.client import Client; "
        "Client(sys.argv[1]).synthesize_to_folder(sys.argv[2], {'blast': 1500})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, toy.address, str(out)], cwd=ROOT)
    table = out / "metadata.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (table.exists() and table.stat().st_size > 3000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = client.synthesize_to_folder(out, counts)
    assert 0 < done.num_resumed < 1500
    assert [line["index"] for line in _lines(out)] == list(range(1500))
    assert len(list(out.glob("blast/*.png"))) == 1500


# Datasets


def test_upload_sends_every_image_and_the_last_message(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    (folder / "labels.csv").write_text(
        "file,class,patient_id\nblast/0.png,blast,p1\nmono/1.png,mono,p2\n"
    )
    (folder / "blast/notes.txt").write_text("left out")
    (folder / "empty").mkdir()
    seen: list[tuple[int, int]] = []
    dataset = client.upload_dataset(
        folder,
        shots=1,
        class_shots={"blast": 2},
        max_test_per_class=7,
        seed=9,
        display_name="Ward 3",
        idempotency_key="k1",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    upload = toy.trainer.uploads[0]
    assert upload.committed
    assert [(i.file_name, i.class_id, i.patient_id) for i in upload.images] == [
        ("blast/0.png", "blast", "p1"),
        ("blast/1.png", "blast", ""),
        ("blast/2.png", "blast", ""),
        ("mono/0.png", "mono", ""),
        ("mono/1.png", "mono", "p2"),
    ]
    assert upload.header is not None
    assert upload.header.idempotency_key == "k1"
    assert upload.header.split.max_test_per_class == 7
    assert [(c.class_id, c.num_train, c.num_test) for c in dataset.classes] == [
        ("blast", 2, 1),
        ("mono", 1, 1),
    ]
    assert (dataset.num_train, dataset.num_test) == (3, 2)
    assert dataset.create_time is not None
    assert dataset.create_time.timestamp() == 1000
    assert dataset.notices == (
        "blast/notes.txt: left out, not an image by its name",
        "empty: left out, the class folder holds no images",
        "3 images have no patient_id in labels.csv",
        "toy notice",
    )
    assert seen[-1] == (5, 5)


def test_an_upload_is_tried_again_with_the_same_key(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    toy.trainer.refuse_uploads = 2
    client.upload_dataset(folder, shots=1)
    assert len(toy.trainer.uploads) == 1
    assert len(toy.trainer.uploads[0].images) == 5


def test_a_refused_image_is_named(client: Client, folder: Path) -> None:
    (folder / "mono/0.png").write_bytes(b"not an image")
    with pytest.raises(CytosynthError, match=r"mono/0\.png: is not an image"):
        client.upload_dataset(folder)


def test_an_upload_cut_half_way_keeps_nothing(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    def vanish(done: int, total: int) -> None:
        if done == 2:
            (folder / "mono/1.png").unlink()

    with pytest.raises(CytosynthError, match=r"mono/1\.png: cannot be read"):
        client.upload_dataset(folder, on_progress=vanish)
    assert toy.trainer.datasets == {}


def test_a_file_over_the_limit_is_named_before_anything_is_sent(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    with (folder / "mono/big.png").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(CytosynthError, match=r"mono/big\.png: 20\.0 MB is over the limit of 20 MB"):
        client.upload_dataset(folder)
    assert toy.trainer.uploads == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Band Cells", "rename it, for example to 'band_cells'"),
        ("4blast", "for example to 'class_4blast'"),
    ],
)
def test_a_bad_class_folder_is_named(folder: Path, name: str, message: str) -> None:
    (folder / "mono").rename(folder / name)
    with pytest.raises(CytosynthError, match=message):
        read_image_tree(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,class\nblast/0.png,mono\n", "is 'mono' here but lies in the folder 'blast'"),
        ("file,label\nblast/0.png,blast\n", "the column 'class' is missing"),
        ("file;class;patient_id\n", "'file' is missing; columns, separated by commas"),
        ("file,class,Patient-ID\nblast/0.png,blast,p1\n", "'Patient-ID'; rename it to patient_id"),
        ("file,class\n\xff\xfe", "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_table_that_contradicts_is_refused(folder: Path, table: str, message: str) -> None:
    (folder / "labels.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(CytosynthError, match=message):
        read_image_tree(folder)


def test_a_row_without_image_is_told(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,class\nblast/9.png,blast\n")
    assert "blast/9.png is not among the images" in read_image_tree(folder).notices[0]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(b"x")
    with pytest.raises(CytosynthError, match="lay it out as <class>/<image>"):
        read_image_tree(tmp_path)


def test_datasets_are_read_imported_and_deleted(client: Client, folder: Path) -> None:
    name = client.upload_dataset(folder, shots=1).name
    assert client.get_dataset(name).num_train == 2
    assert client.import_dataset("s3://cells", class_shots={"blast": 4}).num_test == 6
    assert len(client.list_datasets()) == 2
    proof = client.delete_dataset(name)
    assert (proof.name, proof.num_objects, proof.digest) == (name, 5, "d1")
    with pytest.raises(CytosynthError) as caught:
        client.get_dataset(name)
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.remedy == "list datasets to see which exist"


# Jobs


def test_a_job_is_followed_to_its_result(toy: ToyServices, client: Client) -> None:
    handle = client.fit_adapter("datasets/d", base="toy", rank=8, per_class=True)
    assert handle.job.state == "PENDING"
    steps = [(job.state, job.progress.step) for job in handle.watch()]
    assert steps == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("RUNNING", 3),
        ("SUCCEEDED", 3),
    ]
    assert handle.wait().result == "adapters/a1"
    settings = toy.trainer.requests[0].settings
    assert (settings.rank, settings.per_class) == (8, True)
    assert not settings.HasField("num_steps")


def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = client.fit_adapter("datasets/d", idempotency_key="k")
    assert client.fit_adapter("datasets/d", idempotency_key="k").name == first.name
    assert client.fit_adapter("datasets/d").name != first.name


def test_a_broken_watch_goes_on(toy: ToyServices, client: Client) -> None:
    toy.trainer.break_watch_after = [2, 1]
    handle = client.fit_adapter("datasets/d")
    states = [(job.state, job.progress.step) for job in handle.watch()]
    assert states[-1] == ("SUCCEEDED", 3)
    assert len(states) == len(set(states))


def test_a_failed_job_raises_its_error(toy: ToyServices, client: Client) -> None:
    toy.trainer.job_errors["fit_classifier"] = FailedPrecondition(
        "cyto-small", "has seen test images", "use cyto-small-phantoms"
    )
    handle = client.fit_classifier("datasets/d", architecture="clip")
    with pytest.raises(JobFailed) as caught:
        handle.wait()
    assert caught.value.code == "FAILED_PRECONDITION"
    assert caught.value.remedy == "use cyto-small-phantoms"
    assert caught.value.job_name == handle.name


def test_a_job_is_cancelled(toy: ToyServices, client: Client) -> None:
    toy.trainer.hold.clear()
    handle = client.fit_adapter("datasets/d")
    assert handle.cancel().state == "CANCELLED"
    with pytest.raises(JobFailed) as caught:
        handle.wait()
    assert caught.value.code == "CANCELLED"


def test_the_synthetic_part_reaches_the_trainer(toy: ToyServices, client: Client) -> None:
    synthetic = Synthetic("adapters/a", 50, seed=4, preset="fast", loss_weight=0.6)
    client.fit_classifier("datasets/d", architecture="resnet18", synthetic=synthetic)
    sent = toy.trainer.requests[0].synthetic
    assert (sent.adapter, sent.num_per_class, sent.sampler.preset) == ("adapters/a", 50, "fast")
    assert sent.loss_weight == 0.6
    client.fit_classifier("datasets/d", architecture="resnet18")
    assert not toy.trainer.requests[1].HasField("synthetic")


def test_jobs_are_listed_by_state(client: Client) -> None:
    client.fit_adapter("datasets/d").wait()
    client.fit_adapter("datasets/e")
    assert [job.name for job in client.list_jobs()] == ["jobs/j2", "jobs/j1"]
    assert [job.name for job in client.list_jobs("succeeded")] == ["jobs/j1"]
    with pytest.raises(CytosynthError, match="PENDING, RUNNING"):
        client.list_jobs("done")


def test_what_was_trained_is_read(client: Client) -> None:
    assert client.get_adapter("adapters/a").settings == {"rank": 16}
    classifier = client.list_classifiers()[0]
    assert classifier.synthetic == {"adapter": "adapters/a1", "num_per_class": 5}
    assert classifier.metrics == {"macro_f1": 0.75}


def test_a_report_is_downloaded_whole(client: Client, tmp_path: Path) -> None:
    arms = [ReportArm("clip", "real_only", "classifiers/c1")]
    name = client.create_report("datasets/d", arms, phase_seconds={"upload": 1.5}).wait().result
    paths = client.download_report(name, tmp_path / "report")
    assert [path.name for path in paths] == ["report.html", "report.json"]
    assert json.loads(paths[1].read_text())["seconds"] == {"upload": 1.5}
    assert paths[0].read_text() == "<html>Research use only</html>"
    with pytest.raises(CytosynthError, match="evil"):
        client.download_report("reports/evil", tmp_path / "report")
    assert not (tmp_path / "evil").exists()


# Classification


def test_images_are_classified_in_batches(toy: ToyServices, client: Client) -> None:
    answers = client.classify([bytes([value]) for value in (255, 0, 51)], batch_size=2)
    assert [answer.class_id for answer in answers] == ["blast", "mono", "mono"]
    assert answers[2].probability == pytest.approx(0.8)
    assert list(answers[2].probabilities) == ["mono", "blast"]
    assert answers[0].model == "classifiers/c1"
    assert toy.classifier.batch_sizes == [2, 1]


def test_batches_stay_under_the_message_limit(toy: ToyServices, client: Client) -> None:
    large = bytes([255]) + bytes(15_000_000)
    assert len(client.classify([large] * 3)) == 3
    assert toy.classifier.batch_sizes == [2, 1]


def test_the_bad_image_is_named(client: Client, folder: Path) -> None:
    bad = folder / "mono/1.png"
    bad.write_bytes(b"not an image")
    paths = sorted(folder.rglob("*.png"))
    with pytest.raises(CytosynthError) as caught:
        client.classify(paths, batch_size=2)
    assert caught.value.message == f"{bad}: is not an image; send PNG or JPEG"
    assert caught.value.field_violations[0].field == str(bad)


def test_an_unknown_model_is_named(client: Client) -> None:
    with pytest.raises(CytosynthError, match="aliases/none does not exist"):
        client.classify([b"\x01"], model="aliases/none")


def test_a_stream_of_images_is_classified_in_order(client: Client) -> None:
    answers = client.classify_stream(bytes([value]) for value in (255, 0))
    assert [answer.class_id for answer in answers] == ["blast", "mono"]


def test_aliases_move_and_roll_back(client: Client) -> None:
    assert client.list_models()[0].aliases == ("aliases/production",)
    moved = client.set_alias("aliases/production", "classifiers/c2")
    assert (moved.model, moved.previous_model) == ("classifiers/c2", "classifiers/c1")
    assert client.rollback_alias("aliases/production").model == "classifiers/c1"
    assert [alias.name for alias in client.list_aliases()] == ["aliases/production"]


# Connection


def test_nobody_at_the_address_is_told_in_one_line() -> None:
    with Client("127.0.0.1:1") as lonely, pytest.raises(CytosynthError) as caught:
        lonely.list_jobs()
    assert str(caught.value).startswith("no Cytosynth answers at 127.0.0.1:1; start one with")
    with Client("127.0.0.1:1") as lonely, pytest.raises(CytosynthError, match="no Cytosynth"):
        lonely.check(0.3)


@pytest.mark.parametrize("address", ["localhost", "host:0", "host:99999", "a b:1", "http://x:1"])
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(CytosynthError, match="host:port"):
        Client(address)


def test_a_message_over_the_limit_has_a_remedy(client: Client) -> None:
    images = [bytes([1]) * 19_000_000]
    client.classify(images)
    stub = client._classifier
    from cytosynth.classifier.v1 import classifier_pb2

    request = classifier_pb2.ClassifyRequest(images=images * 2)
    with pytest.raises(CytosynthError) as caught:
        client._connection.call(stub.Classify, request)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert caught.value.remedy == "send less in one message"


def test_a_busy_service_says_when_to_come_back() -> None:
    from cytosynth.client.errors import error_from_status
    from services.common.rpc.handlers import to_status

    error = error_from_status(to_status(ResourceExhausted("the queue is full", "wait", 2.5), "r1"))
    assert error.retry_after_seconds == 2.5
    assert str(error) == "the queue is full; wait (retry after 2.5 s)"
    assert error.to_dict()["code"] == "RESOURCE_EXHAUSTED"
