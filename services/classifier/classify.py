"""Classification: encoded images to answers.

The answer to an image does not depend on the other images of its batch: batches are padded to one
of a few sizes. Between sizes the arithmetic may round differently, by less than 1e-5 in a
probability.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from services.classifier.batching.engine import BatchEngine
from services.classifier.batching.flows import Flow, RgbImage, Scores
from services.classifier.loaded_model import LoadedModel
from services.classifier.metrics import ServingMetrics
from services.classifier.saliency.drawing import Drawing
from services.common.answers.answer_model import Answer, Answers
from services.common.answers.options import AnswerOptions
from services.common.errors import InvalidArgument
from services.common.images.codec import ImageLimits, center_square, decode_image, sha256_hex


@dataclass(frozen=True)
class Wanted:
    """What a caller asks for.

    Attributes:
        options: Assumptions behind the answers.
        saliency: Draw what the answers rest on.
        answer_each: Answer an image that cannot be read with its own error.
    """

    options: AnswerOptions = field(default_factory=AnswerOptions)
    saliency: bool = False
    answer_each: bool = False


@dataclass
class Picture:
    """One image of a call.

    Attributes:
        data: The encoded image.
        place: Its field in the request, for errors.
        digest: SHA-256 (hex) of ``data``, once prepared.
        notices: What was ignored while it was read.
        pixels: The image as the network sees it, once prepared.
    """

    data: bytes
    place: str
    digest: str = ""
    notices: list[str] = field(default_factory=list)
    pixels: RgbImage | None = None

    def prepare(self, model: LoadedModel, limits: ImageLimits) -> RgbImage:
        """Decodes and crops the image: uint8 (image_size, image_size, 3).

        Raises:
            InvalidArgument: Naming ``place``, if the image is refused.
        """
        self.digest = sha256_hex(self.data)
        decoded = decode_image(self.data, self.place, limits, self.notices)
        self.pixels = center_square(decoded, model.center_crop, model.config.image_size)
        return self.pixels


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        digest: SHA-256 (hex) of the encoded image.
        notices: What was ignored while it was read.
        answer: The answer, None if the image was refused.
        error: Why the image was refused.
        saliency_png: What the answer rests on, if asked for.
    """

    digest: str
    notices: tuple[str, ...]
    answer: Answer | None = None
    error: InvalidArgument | None = None
    saliency_png: bytes = b""


@dataclass(frozen=True)
class Classified:
    """What became of the images of a call.

    Attributes:
        model: The classifier that answered.
        outcomes: One per image, in their order.
        answers: What the answers have in common.
    """

    model: LoadedModel
    outcomes: list[Outcome]
    answers: Answers


def check_count(num_images: int, limit: int) -> None:
    """Raises InvalidArgument for an empty or too large batch."""
    if not 1 <= num_images <= limit:
        raise InvalidArgument("images", f"has {num_images} images", f"send 1 to {limit}")


class Classifying:
    """Classifies the images of calls; for one event loop."""

    def __init__(
        self,
        engine: BatchEngine,
        limits: ImageLimits,
        drawing: Drawing,
        metrics: ServingMetrics,
    ) -> None:
        self.engine, self.limits, self._metrics = engine, limits, metrics
        self._drawing = drawing
        self._answering = ThreadPoolExecutor(1, "answer")

    def check(self, model: LoadedModel, wanted: Wanted, num_images: int, is_stream: bool) -> None:
        """Refuses what cannot be answered, before any image is decoded.

        Raises:
            InvalidArgument: Naming the option at fault.
            ResourceExhausted: If too many images wait for their saliency.
        """
        wanted.options.check(model.config.class_ids, is_stream)
        if wanted.saliency:
            self._drawing.check(num_images)

    async def classify(
        self, model: LoadedModel, deadline: float | None, images: Sequence[bytes], wanted: Wanted
    ) -> Classified:
        """Answers all images of a call.

        Args:
            model: Classifier to ask.
            deadline: Monotonic seconds after which the caller no longer waits, or None.
            images: Encoded images.
            wanted: What is asked for.

        Raises:
            InvalidArgument: Naming the images that are refused, unless each is to be answered.
            ResourceExhausted: If the images would wait too long.
        """
        pictures = [Picture(data, f"images[{number}]") for number, data in enumerate(images)]
        prepares = [partial(picture.prepare, model, self.limits) for picture in pictures]
        flow = Flow(model.tenant, model, deadline)
        try:
            scores = await asyncio.gather(
                *self.engine.admit(flow, prepares), return_exceptions=True
            )
        finally:
            self.engine.cancel(flow)
        return await self.answer(flow, model, pictures, scores, wanted)

    async def answer(
        self,
        flow: Flow,
        model: LoadedModel,
        pictures: Sequence[Picture],
        scores: Sequence[Scores | BaseException],
        wanted: Wanted,
    ) -> Classified:
        """Turns the scores of a call into answers.

        Raises:
            InvalidArgument: As ``classify``.
            Exception: What a network raised, if it did.
        """
        refused = [each for each in scores if isinstance(each, InvalidArgument)]
        for each in scores:
            if isinstance(each, BaseException) and not isinstance(each, InvalidArgument):
                raise each
        if refused and not wanted.answer_each:
            raise InvalidArgument.joined(refused, len(refused))
        readable = [
            (picture, each)
            for picture, each in zip(pictures, scores, strict=True)
            if isinstance(each, Scores)
        ]
        answers = await self._answers(model, readable, wanted.options)
        self._metrics.classified(
            model.tenant, model.config.architecture, [each.class_id for each in answers.each]
        )
        saliency: list[bytes] = [b""] * len(answers.each)
        if wanted.saliency:
            saliency = await self._drawing.draw(
                model,
                [picture.pixels for picture, _ in readable if picture.pixels is not None],
                [answer.class_id for answer in answers.each],
                flow.deadline,
            )
        each_answer = iter(zip(answers.each, saliency, strict=True))
        outcomes = []
        for picture, each in zip(pictures, scores, strict=True):
            notices = tuple(picture.notices)
            if isinstance(each, InvalidArgument):
                outcomes.append(Outcome(picture.digest, notices, error=each))
            else:
                answer, png = next(each_answer)
                outcomes.append(Outcome(picture.digest, notices, answer, saliency_png=png))
        return Classified(model, outcomes, answers)

    async def _answers(
        self,
        model: LoadedModel,
        readable: Sequence[tuple[Picture, Scores]],
        options: AnswerOptions,
    ) -> Answers:
        logits_BC = np.array([scores.logits for _, scores in readable])
        features_BD = np.array([scores.features for _, scores in readable])
        if model.answers.image_checks is None:  # quicker than a thread
            return model.answers.answer(logits_BC, features_BD, None, options)
        images_BHWC = np.array([picture.pixels for picture, _ in readable])
        ask = partial(model.answers.answer, logits_BC, features_BD, images_BHWC, options)
        return await asyncio.get_running_loop().run_in_executor(self._answering, ask)
