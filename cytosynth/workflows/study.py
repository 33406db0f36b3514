"""A study as one client program: upload, one job, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cytosynth.client import Client, StudySettings, read_image_tree
from cytosynth.workflows.progress import Listener, Progress, display_name


@dataclass(frozen=True)
class StudyOptions:
    """What is studied.

    Attributes:
        data: ImageFolder tree, ``<class>/<image>``.
        out: Folder for report.html, report.json, metrics.csv, nearest.csv and run.json.
        settings: What is compared.
        title: Title of the report.
    """

    data: Path
    out: Path
    settings: StudySettings = field(default_factory=StudySettings)
    title: str = ""


@dataclass(frozen=True)
class StudyOutcome:
    """The report, and where it lies."""

    report: Mapping[str, Any]
    html_path: Path
    json_path: Path
    name: str
    seconds: Mapping[str, float]


def run_study(
    client: Client, options: StudyOptions, listener: Listener | None = None
) -> StudyOutcome:
    """Run a study, or continue an interrupted one.

    Raises:
        CytosynthError: What failed and what to do about it.
    """
    images = read_image_tree(options.data)
    progress = Progress(options.out, options, images, listener or Listener())
    with progress.phase("upload") as phase:
        dataset = client.upload_dataset(
            images,
            display_name=display_name(options.data),
            idempotency_key=phase.key,
            on_progress=phase.count,
        )
        phase.listener.notices(dataset.notices)
    with progress.phase("study") as phase:
        name = phase.job(client.create_study, dataset.name, options.settings, title=options.title)
        client.download_report(name, options.out)
    progress.finish()
    json_path = options.out / "report.json"
    return StudyOutcome(
        report=json.loads(json_path.read_text(encoding="utf-8")),
        html_path=options.out / "report.html",
        json_path=json_path,
        name=name,
        seconds=progress.seconds,
    )
