"""Trains and tests the classifiers of a replicate."""

from __future__ import annotations

from services.common.errors import FailedPrecondition
from services.trainer.classifiers.fit import (
    classifier_config,
    initial_model,
    predict,
    train_and_test,
)
from services.trainer.classifiers.job import open_pool
from services.trainer.classifiers.leakage import check_leakage
from services.trainer.classifiers.training_images import LabelledImages, labelled
from services.trainer.compute.training_run import ProgressFn
from services.trainer.datasets.reading import digests_of_split, load_members
from services.trainer.datasets.resplitting import spare_digests
from services.trainer.evaluation.predictions import Predictions
from services.trainer.studies.arm_images import Ready, first_of_each, joined, phantom_images
from services.trainer.studies.recipe import (
    BALANCED,
    REAL_ONLY,
    REAL_PLUS_FURTHER_REAL,
    REAL_PLUS_PHANTOMS,
    SYNTHETIC_ONLY,
    TRANSFER_REAL_ONLY,
    ZERO_SHOT,
    Trial,
    hyperparameters_of,
)
from services.trainer.studies.replicate import Replicate
from services.trainer.studies.synthetic_images import image_plan, withheld_images


def train_trial(replicate: Replicate, trial: Trial, part: str, progress: ProgressFn) -> Predictions:
    """Trains one classifier and gives its answers on the locked test images.

    Args:
        replicate: Whose images; the synthetic ones exist if the arm needs them.
        trial: Which classifier.
        part: Name of this part of the study, for its checkpoints.
        progress: Called once a step; may raise to stop.

    Raises:
        FailedPrecondition: If a base has seen a test image, or an arm has no images.
    """
    ctx = replicate.ctx
    hparams = hyperparameters_of(replicate.study, trial)
    config, _ = classifier_config(hparams, replicate.class_ids, ctx.settings)
    # Bases were found blind to the first replicate's test images; every replicate has others.
    check_leakage({}, hparams, replicate.dataset, ctx.store, ctx.tenant, ctx.settings)
    model = initial_model(hparams, config, ctx.settings)
    if trial.arm == ZERO_SHOT:
        test = replicate.kept_images("test", config.image_size)
        return predict(model.eval(), config, test, ctx.settings, progress)
    real = labelled(replicate.kept_images("train", config.image_size), config.class_ids)
    added = _added_images(replicate, trial, config.image_size, progress)
    if added is not None and trial.arm == SYNTHETIC_ONLY:
        real, added = added.images, None
    elif added is not None and trial.arm == BALANCED:
        # Few classes need any, so they share batches with the real ones.
        real, added = joined(real, added.images), None
    checkpoints = replicate.checkpoints(part)
    done = train_and_test(
        model,
        hparams,
        config,
        real,
        added,
        lambda: replicate.kept_images("test", config.image_size),
        ctx.settings,
        progress,
        checkpoints,
    )
    checkpoints.remove()
    return done.predictions


def _added_images(
    replicate: Replicate, trial: Trial, image_size: int, progress: ProgressFn
) -> Ready | None:
    """Images that the arm adds to the real ones; None without."""
    if trial.arm in (REAL_ONLY, TRANSFER_REAL_ONLY):
        return None
    count, class_ids = trial.num_per_class, replicate.class_ids
    if trial.arm == REAL_PLUS_PHANTOMS:
        return Ready(phantom_images(class_ids, count, replicate.seed, image_size))
    if trial.arm == REAL_PLUS_FURTHER_REAL:
        return Ready(_further_real(replicate, count, image_size))
    counts = dict.fromkeys(class_ids, count)
    if trial.arm == BALANCED:
        train = digests_of_split(replicate.dataset, "train")
        most = max(len(train[c]) for c in class_ids)
        counts = {c: most - len(train[c]) for c in class_ids}
    ctx = replicate.with_progress(progress)
    with open_pool(image_plan(replicate), image_size, ctx) as pool:
        return first_of_each(pool.wait_for(1.0), withheld_images(replicate), counts)


def _further_real(replicate: Replicate, most: int, image_size: int) -> LabelledImages:
    ctx, spare = replicate.ctx, spare_digests(replicate.dataset)
    members = {class_id: spare[class_id][:most] for class_id in replicate.class_ids}
    if not any(members.values()):  # the first replicate had some; here patients fell otherwise
        problem = "has no real image that neither trains nor tests"
        remedy = "lower max_test_per_class, or leave out the arm real_plus_further_real"
        raise FailedPrecondition(f"replicate {replicate.number + 1}", problem, remedy)
    found = load_members(
        ctx.store, ctx.tenant, replicate.dataset, members, image_size, ctx.settings
    )
    return labelled(found, replicate.class_ids)
