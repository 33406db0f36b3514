"""Saliency beside batches: limits, deadlines, waiting images."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from services.classifier.saliency import drawing as drawing_module
from services.classifier.saliency.drawing import MAX_IMAGES, Drawing
from services.common.errors import Cancelled, InvalidArgument, ResourceExhausted


@pytest.fixture
def drawn_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    threads: list[str] = []

    def draw(model: Any, image: Any, class_id: str) -> bytes:
        threads.append(threading.current_thread().name)
        return class_id.encode()

    monkeypatch.setattr(drawing_module, "_draw", draw)
    return threads


def draw(drawing: Drawing, class_ids: list[str], deadline: float | None = None) -> list[bytes]:
    model: Any = None
    images: list[Any] = [None] * len(class_ids)
    return asyncio.run(drawing.draw(model, images, class_ids, deadline))


def test_images_are_drawn_in_order_in_a_thread_of_their_own(drawn_by: list[str]) -> None:
    assert draw(Drawing(), ["blast", "monocyte"]) == [b"blast", b"monocyte"]
    assert len(set(drawn_by)) == 1 and drawn_by[0].startswith("saliency")


def test_a_call_may_not_ask_for_too_many() -> None:
    Drawing().check(MAX_IMAGES)
    with pytest.raises(InvalidArgument) as caught:
        Drawing().check(MAX_IMAGES + 1)
    assert caught.value.field == "options.saliency" and str(MAX_IMAGES) in caught.value.remedy


def test_nothing_is_drawn_after_the_deadline(drawn_by: list[str]) -> None:
    drawing = Drawing()
    with pytest.raises(Cancelled, match="deadline"):
        draw(drawing, ["blast"], deadline=time.monotonic())
    assert drawn_by == []
    drawing.check(1)


def test_calls_are_refused_while_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(drawing_module, "_draw", lambda *_: b"" if go.wait(30) else b"late")
    drawing = Drawing()

    async def run() -> None:
        model: Any = None
        images: list[Any] = [None] * 1000
        waiting = asyncio.ensure_future(drawing.draw(model, images, ["blast"] * 1000, None))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as caught:
            drawing.check(1)
        assert caught.value.retry_after_seconds > 0
        waiting.cancel()
        go.set()
        await asyncio.gather(waiting, return_exceptions=True)
        drawing.check(1)

    asyncio.run(run())
