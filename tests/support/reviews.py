"""Small reviews: folders of phantoms, a served page, answers known by hand."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from cytosynth.phantoms import DEMO_HOSPITAL, REFERENCE, render_phantom
from cytosynth.review.answers import Answers
from cytosynth.review.mix import Mix, MixOptions, open_mix, shown_cells
from cytosynth.review.page import review_app

CLASSES = ("lymphocyte", "monocyte")
REAL_PX, SYNTHETIC_PX = 60, 40


@cache
def phantom(class_id: str, seed: int, size_px: int) -> np.ndarray:
    """uint8 (size_px, size_px, 3)."""
    laboratory = REFERENCE if size_px == REAL_PX else DEMO_HOSPITAL
    return render_phantom(class_id, laboratory, seed, size_px).image


def write_trees(root: Path, count: int = 3, classes: tuple[str, ...] = CLASSES) -> list[Path]:
    """Write ``<root>/photos`` and ``<root>/drawn``, ``count`` images of every class.

    Photos are JPEG of 60 px, the others PNG of 40 px.
    """
    folders = [root / "photos", root / "drawn"]
    for folder, size_px, suffix in zip(
        folders, (REAL_PX, SYNTHETIC_PX), ("jpg", "png"), strict=True
    ):
        for class_id in classes:
            (folder / class_id).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(phantom(class_id, number, size_px))
                image.save(folder / class_id / f"secret{number}.{suffix}")
    return folders


def small_mix(root: Path, per_class: int = 2, count: int = 3, **options: Any) -> tuple[Mix, Path]:
    """A mix of two classes, sampled into ``<root>/out``; gives both."""
    photos, drawn = write_trees(root, count)
    out = root / "out"
    return open_mix(photos, drawn, out, MixOptions(per_class, **options)), out


@dataclass
class Served:
    """A review that is being served."""

    url: str
    mix: Mix
    out: Path
    answers: Answers

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        return ask(self.url + path, None, headers)

    def post(self, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        """Send an answer; return status and JSON.

        Headers are written with _ for -.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, found = ask(self.url + "/api/answers", data, sent)
        return status, json.loads(found)


def ask(url: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """One request; a failure is an answer, too."""
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            found = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            found = error.code, error.headers, error.read()
    return found[0], {name.lower(): value for name, value in found[1].items()}, found[2]


@contextmanager
def served(mix: Mix, out: Path) -> Iterator[Served]:
    """Serve a review on a free local port, from a thread."""
    with closing(Answers(out)) as answers:
        app = review_app(mix, shown_cells(mix, out), answers, ["127.0.0.1"])
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline and thread.is_alive()
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Served(f"http://127.0.0.1:{port}", mix, out, answers)
        finally:
            server.should_exit = True
            thread.join(30)
