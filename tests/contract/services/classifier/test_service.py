"""The classifier's contract, over a real channel to the real Serve app."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from cytosynth.classifier.v1 import classifier_pb2 as pb
from cytosynth.classifier.v1 import classifier_pb2_grpc
from services.common.database.jobs import migrate
from services.common.images.codec import encode_image
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import CLASSES, TENANT, cell_image, store_random_classifier
from tests.support.servers.local_serve import local_serve

METADATA = [("x-cytosynth-tenant", TENANT)]
SECONDS = 120

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("classifier")
    url = f"sqlite:///{root}/jobs.db"
    migrate(url)
    store = ArtifactStore(f"file://{root}/store")
    for number in (1, 2):
        store_random_classifier(store, f"model-{number}", seed=number)
    os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
    # Imported late: Ray reads its environment when it is imported.
    from services.classifier.app import APP_NAME, build_app
    from services.classifier.config import ClassifierSettings

    settings = ClassifierSettings(
        store_uri=f"file://{root}/store",
        database_url=url,
        models_dir=root / "models",
        max_image_pixels=1_000_000,
        classifier_num_threads=1,
    )
    with local_serve(build_app(settings), APP_NAME) as address:
        with grpc.insecure_channel(
            address, options=[("grpc.max_send_message_length", 64 << 20)]
        ) as channel:
            yield classifier_pb2_grpc.ClassifierServiceStub(channel)


def png(seed: int = 0) -> bytes:
    return encode_image(cell_image(CLASSES[seed % 3], seed))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def ask(stub: Any, images: list[bytes], model: str = "classifiers/model-1", **extra: Any) -> Any:
    request = pb.ClassifyRequest(model=model, images=images)
    return stub.Classify(request, timeout=SECONDS, **({"metadata": METADATA} | extra))


def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """The failure that ``call`` must raise: code, message, first named field."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    status = rpc_status.from_call(error)
    field = ""
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert "Traceback" not in error.details() and "/tmp" not in error.details()
    return error.code(), error.details(), field


def by_class(answer: Any) -> dict[str, float]:
    return {each.class_id: each.probability for each in answer.probabilities}


def test_a_batch_is_answered_in_order_with_probabilities(stub: Any) -> None:
    response = ask(stub, [png(n) for n in range(40)])
    assert response.model == "classifiers/model-1"
    assert len(response.classifications) == 40
    for answer in response.classifications:
        shares = [each.probability for each in answer.probabilities]
        assert sum(shares) == pytest.approx(1.0) and shares == sorted(shares, reverse=True)
        assert answer.class_id == answer.probabilities[0].class_id
    for number in (0, 39):
        alone = by_class(ask(stub, [png(number)]).classifications[0])
        assert alone == pytest.approx(by_class(response.classifications[number]), abs=1e-5)


def test_stream_gives_one_answer_per_image_in_order(stub: Any) -> None:
    requests = [
        pb.ClassifyStreamRequest(model="classifiers/model-1" if n == 0 else "", image=png(n))
        for n in range(5)
    ]
    answers = list(stub.ClassifyStream(iter(requests), timeout=SECONDS, metadata=METADATA))
    assert len(answers) == 5
    batch = ask(stub, [png(n) for n in range(5)]).classifications
    for answer, expected in zip(answers, batch, strict=True):
        assert answer.model == "classifiers/model-1"
        assert by_class(answer.classification) == pytest.approx(by_class(expected), abs=1e-5)


def test_stream_names_the_message_with_the_bad_image(stub: Any) -> None:
    requests = [
        pb.ClassifyStreamRequest(model="classifiers/model-1", image=png()),
        pb.ClassifyStreamRequest(image=b"nonsense"),
    ]
    calls = stub.ClassifyStream(iter(requests), timeout=SECONDS, metadata=METADATA)
    code, _, field = refusal(lambda: list(calls))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and field == "image (message 1)"


def test_versions_and_aliases_are_promoted_and_rolled_back(stub: Any) -> None:
    def call(method: str, request: Any) -> Any:
        return getattr(stub, method)(request, timeout=SECONDS, metadata=METADATA)

    code, message, _ = refusal(lambda: ask(stub, [png()], model=""))
    assert code == grpc.StatusCode.NOT_FOUND and "aliases/production" in message
    for number in (1, 2):
        request = pb.SetAliasRequest(name="aliases/production", model=f"classifiers/model-{number}")
        alias = call("SetAlias", request).alias
    assert (alias.model, alias.previous_model) == ("classifiers/model-2", "classifiers/model-1")
    assert ask(stub, [png()], model="").model == "classifiers/model-2"
    model = call("GetModel", pb.GetModelRequest(name="aliases/production")).model
    assert model.name == "classifiers/model-2" and list(model.aliases) == ["aliases/production"]
    assert list(model.class_ids) == list(CLASSES) and model.metrics["macro_f1"] == 0.5
    assert len(model.manifest_digest) == 64 and model.create_time.seconds > 0
    alias = call("RollbackAlias", pb.RollbackAliasRequest(name="aliases/production")).alias
    assert alias.model == "classifiers/model-1"
    assert ask(stub, [png()], model="aliases/production").model == "classifiers/model-1"
    code, _, _ = refusal(
        lambda: call("RollbackAlias", pb.RollbackAliasRequest(name="aliases/production"))
    )
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert [a.name for a in call("ListAliases", pb.ListAliasesRequest()).aliases] == [
        "aliases/production"
    ]
    names = [m.name for m in call("ListModels", pb.ListModelsRequest()).models]
    assert names == ["classifiers/model-2", "classifiers/model-1"]


def test_another_tenant_sees_nothing(stub: Any) -> None:
    other = [("x-cytosynth-tenant", "other-lab")]
    code, _, _ = refusal(lambda: ask(stub, [png()], metadata=other))
    assert code == grpc.StatusCode.NOT_FOUND
    listed = stub.ListModels(pb.ListModelsRequest(), timeout=SECONDS, metadata=other)
    assert len(listed.models) == 0


def test_formats_and_depths_of_real_microscopes_are_taken(stub: Any) -> None:
    cell = Image.fromarray(cell_image("monocyte", 1))
    deep = Image.fromarray(cell_image("monocyte", 1)[:, :, 0].astype("uint16") << 8)
    files = [
        saved(cell, "JPEG"),
        saved(cell, "WEBP"),
        saved(cell, "TIFF"),
        saved(cell, "BMP"),
        saved(cell.convert("L"), "PNG"),
        saved(cell.convert("CMYK"), "JPEG"),
        saved(cell.convert("RGBA"), "PNG"),
        saved(deep, "PNG"),
    ]
    assert len(ask(stub, files).classifications) == len(files)


BAD_IMAGES = {
    "empty": b"",
    "not an image": b"%PDF-1.7 nothing to see",
    "truncated": png()[:-40],
    "one pixel": saved(Image.new("RGB", (1, 1)), "PNG"),
    "bomb": saved(Image.new("1", (6000, 6000)), "PNG"),
    "animated": saved(
        Image.new("RGB", (20, 20)), "PNG", save_all=True,
        append_images=[Image.new("RGB", (20, 20), "red")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_named_by_its_place_and_the_service_lives_on(stub: Any, kind: str) -> None:
    files = [png(0), png(1), png(2), BAD_IMAGES[kind], png(3)]
    code, message, field = refusal(lambda: ask(stub, files))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert field == "images[3]" and "images[3]" in message
    assert len(ask(stub, [png()]).classifications) == 1


@pytest.mark.parametrize(
    ("images", "model", "code", "field"),
    [
        (0, "classifiers/model-1", "INVALID_ARGUMENT", "images"),
        (257, "classifiers/model-1", "INVALID_ARGUMENT", "images"),
        (1, "classifiers/none", "NOT_FOUND", ""),
        (1, "aliases/none", "NOT_FOUND", ""),
        (1, "adapters/model-1", "INVALID_ARGUMENT", "model"),
        (1, "model-1", "INVALID_ARGUMENT", "model"),
    ],
)
def test_bad_request_has_the_right_code_and_field(
    stub: Any, images: int, model: str, code: str, field: str
) -> None:
    got, _, named = refusal(lambda: ask(stub, [png()] * images, model=model))
    assert (got.name, named) == (code, field)
