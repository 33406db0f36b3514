"""The job ``fit_classifier``: makes a **Classifier** of real and synthetic images.

Light to import: ``validate`` runs in the trainer's front, which holds no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from services.common import resource_names
from services.common.errors import (
    DataLoss,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    check_one_of,
)
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.sampler_presets import SAMPLER_PRESETS
from services.common.resource_names import ADAPTERS, CLASSIFIERS, DATASETS
from services.common.seeds import MAX_SEED
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version
from services.trainer.classifiers.image_sets import SyntheticPlan
from services.trainer.classifiers.leakage import check_leakage
from services.trainer.classifiers.pretrained import classifier_base
from services.trainer.classifiers.recipe import (
    Hyperparameters,
    calibration_folds_from_spec,
    hyperparameters_from_spec,
)
from services.trainer.config import TrainerSettings
from services.trainer.datasets.leakage import training_phashes
from services.trainer.datasets.reading import load_images, usable_classes

if TYPE_CHECKING:
    from services.trainer.evaluation.predictions import Predictions
    from services.trainer.jobs.context import JobContext

MAX_NUM_PER_CLASS = 100_000
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PREDICTIONS_FILE = "test_predictions.json"
EVALUATION_FILE = "evaluation.json"
TEST_ANSWERS_FILE = "test_answers.json"


def validate(
    spec: Mapping[str, Any], store: ArtifactStore, tenant: str, settings: TrainerSettings
) -> None:
    """Refuses a request that cannot be carried out.

    Raises:
        InvalidArgument: Naming the field.
        NotFound: If dataset or adapter do not exist.
        FailedPrecondition: If a model involved has seen a test image, or too few classes
            can be tested.
    """
    hparams = hyperparameters_from_spec(spec, settings.default_clip)
    calibration_folds_from_spec(spec)
    classifier_base(hparams, settings.models_dir)
    dataset_id = resource_names.parse(DATASETS, spec.get("dataset", ""), "dataset")
    dataset = store.get_manifest(tenant, DATASETS, dataset_id)
    class_ids = usable_classes(dataset)
    if len(class_ids) < 2:
        raise FailedPrecondition(
            spec["dataset"],
            f"{len(class_ids)} class can be trained and tested",
            "upload at least two classes of two images each",
        )
    if spec.get("synthetic"):
        synthetic_plan(spec["synthetic"], class_ids, store, tenant)
    check_leakage(spec, hparams, dataset, store, tenant, settings)


def run(spec: Mapping[str, Any], ctx: JobContext) -> str:
    """Carries the request out.

    Returns:
        Id of the classifier.

    Raises:
        Cancelled: If a cancel was asked.
        DomainError: As ``validate``; or the generator refused or was lost.
    """
    from services.common.answers.storage import ANSWERS_FILE, save_answer_model
    from services.common.models.classifiers import save_model  # the front needs no torch
    from services.trainer.classifiers.answers import (
        AnswerTraining,
        fit_answers,
        measured_answers,
    )
    from services.trainer.classifiers.fit import (
        classifier_config,
        initial_model,
        train_and_test_once,
    )
    from services.trainer.classifiers.stages import TrainingStages
    from services.trainer.classifiers.training_images import labelled
    from services.trainer.evaluation.answers import headline_figures
    from services.trainer.evaluation.metrics import evaluate

    if ctx.store.exists(ctx.tenant, CLASSIFIERS, ctx.artifact_id):
        return ctx.artifact_id
    validate(spec, ctx.store, ctx.tenant, ctx.settings)
    hparams = hyperparameters_from_spec(spec, ctx.settings.default_clip)
    dataset_id = resource_names.parse(DATASETS, spec["dataset"], "dataset")
    dataset = ctx.store.get_manifest(ctx.tenant, DATASETS, dataset_id)
    class_ids = usable_classes(dataset)
    config, base = classifier_config(hparams, class_ids, ctx.settings)
    ctx.progress("reading images", 0, 0, {})
    load = partial(load_images, ctx.store, ctx.tenant, dataset_id)
    train_side = load("train", config.image_size, ctx.settings)
    load_test = partial(load, "test", config.image_size, ctx.settings)
    base_manifest = base.manifest if base else {}
    num_folds = calibration_folds_from_spec(spec)
    training = AnswerTraining(hparams, config, num_folds, dataset, base_manifest)
    stages = TrainingStages(ctx.checkpoints)
    image_set = ""
    with ExitStack() as stack:
        pool = None
        if spec.get("synthetic"):
            plan = synthetic_plan(spec["synthetic"], class_ids, ctx.store, ctx.tenant)
            pool = stack.enter_context(open_pool(plan, config.image_size, ctx))
        done = train_and_test_once(
            initial_model(hparams, config, ctx.settings),
            hparams,
            config,
            labelled(train_side, config.class_ids),
            pool,
            load_test,
            ctx.settings,
            ctx.progress,
            stages,
        )
        fitted = fit_answers(done, training, train_side, pool, ctx.settings, ctx.progress, stages)
        if pool is not None:
            image_set = pool.image_set()
    evaluation = evaluate(done.predictions)
    answers = measured_answers(done, fitted, load_test, ctx.settings, ctx.progress)
    draft = ctx.store.new_draft(ctx.tenant, CLASSIFIERS, ctx.artifact_id)
    center_crop = dataset["body"]["center_crop"]
    figures = {**evaluation.to_dict(), "answers": answers.figures}
    files = save_model(done.model) | {ANSWERS_FILE: save_answer_model(answers.model)}
    if answers.tested is not None:
        files[TEST_ANSWERS_FILE] = json.dumps(answers.tested.to_dict()).encode()
    files |= _documents(config, center_crop, done.predictions, figures)
    for path, data in files.items():
        draft.write(path, data)
    adapter = (spec.get("synthetic") or {}).get("adapter", "")
    draft.commit(
        {
            "parents": [name for name in (spec["dataset"], adapter, image_set) if name],
            "base": base.name if base else "",
            "base_revision": base.revision if base else "",
            "settings": hparams.settings()
            | {"image_size": config.image_size, "num_calibration_folds": num_folds},
            "seed": hparams.seed,
            "code_version": code_version(),
            "metrics": evaluation.metrics
            | (headline_figures(answers.figures) if answers.figures else {}),
            "digests": sorted({*train_side.digests, *base_manifest.get("digests", ())}),
            "phashes": sorted({*training_phashes(dataset), *base_manifest.get("phashes", ())}),
            "body": {
                "dataset": spec["dataset"],
                "split_digest": dataset["body"]["split_digest"],
                "architecture": hparams.architecture,
                "class_ids": class_ids,
                "center_crop": center_crop,
                "config": config.to_dict(),
                "synthetic": _synthetic_body(spec, hparams),
                "image_set": image_set,
                "answers": answers.body,
                "training": done.figures
                | {
                    "batch_size": hparams.batch_size,
                    "synthetic_batch_size": hparams.synthetic_batch_size if image_set else 0,
                    "num_steps": hparams.num_steps,
                },
            },
        }
    )
    return ctx.artifact_id


def synthetic_plan(
    synthetic: Mapping[str, Any], class_ids: list[str], store: ArtifactStore, tenant: str
) -> SyntheticPlan:
    """The synthetic images that a request asks for.

    Raises:
        InvalidArgument: Naming the field.
        NotFound: If there is no such adapter.
        FailedPrecondition: If it has not learned all classes.
    """
    count = synthetic.get("num_per_class") or 0
    if not 1 <= count <= MAX_NUM_PER_CLASS:
        path = "synthetic.num_per_class"
        raise InvalidArgument(path, f"is {count}", f"send 1 to {MAX_NUM_PER_CLASS}")
    seed = synthetic.get("seed") or 0
    if not 0 <= seed <= MAX_SEED:
        raise InvalidArgument("synthetic.seed", f"is {seed}", "send 0 to 2^63 - 1")
    sampler = {k: v for k, v in (synthetic.get("sampler") or {}).items() if v not in (None, "")}
    if "preset" in sampler:
        check_one_of("synthetic.sampler.preset", sampler["preset"], SAMPLER_PRESETS)
    name = synthetic.get("adapter") or ""
    adapter_id = resource_names.parse(ADAPTERS, name, "synthetic.adapter")
    adapter = store.get_manifest(tenant, ADAPTERS, adapter_id)
    missing = sorted(set(class_ids) - set(adapter["body"]["class_ids"]))
    if missing:
        raise FailedPrecondition(
            name, f"it has not learned {', '.join(missing)}", "train an adapter on this dataset"
        )
    return SyntheticPlan(
        adapter=name,
        adapter_digest=store.manifest_digest(tenant, ADAPTERS, adapter_id),
        class_ids=tuple(class_ids),
        num_per_class=count,
        seed=seed,
        sampler=sampler,
    )


def open_pool(plan: SyntheticPlan, image_size: int, ctx: JobContext) -> Any:
    """Pool pulling a plan's images from the generator in the background."""
    from cytosynth.client import (
        CytosynthError,
        GeneratorClient,
        SamplerSettings,
        SynthesisSettings,
    )
    from services.trainer.classifiers.synthetic_pool import SyntheticPool

    client = GeneratorClient(ctx.settings.generator_address, tenant=ctx.tenant, bypass_proxy=True)
    sampler = SamplerSettings(**plan.sampler)

    def synthesize(class_counts: dict[str, int], seed: int) -> Iterator[Any]:
        try:
            wanted = SynthesisSettings(plan.adapter, seed=seed, sampler=sampler)
            yield from client.synthesize(class_counts, wanted)
        except CytosynthError as error:
            raise _as_domain_error(error.code, error.message) from error

    def on_wait(num_arrived: int, num_images: int) -> None:
        ctx.progress("waiting for synthetic images", num_arrived, num_images, {})

    return SyntheticPool(plan, image_size, ctx.store, ctx.tenant, synthesize, on_wait)


def _as_domain_error(code: str, message: str) -> DomainError:
    if code == "DATA_LOSS":
        return DataLoss(message)
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"):
        return Unavailable(f"the generator was lost: {message}", 10.0)
    return FailedPrecondition("generator", message, "correct the request's synthetic part")


def _documents(
    config: ClassifierConfig,
    center_crop: float,
    predictions: Predictions,
    evaluation: Mapping[str, Any],
) -> dict[str, bytes]:
    documents = {
        CONFIG_FILE: {**config.to_dict(), "center_crop": center_crop},
        PREDICTIONS_FILE: predictions.to_dict(),
        EVALUATION_FILE: evaluation,
    }
    return {path: json.dumps(document).encode() for path, document in documents.items()}


def _synthetic_body(spec: Mapping[str, Any], hparams: Hyperparameters) -> dict[str, object] | None:
    synthetic = spec.get("synthetic")
    if not synthetic:
        return None
    return {
        **synthetic,
        "loss_weight": hparams.loss_weight,
        "enough_real": hparams.enough_real,
    }
