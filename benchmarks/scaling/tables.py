"""Tables of docs/scaling.md: which part is full first.

    python -m benchmarks.scaling.tables [--measured out/bench/scaling.json]

Writes the tables into the page; with ``--measured``, its figures anew from that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling.cost import FLEET_EFFICIENCY, around, assumed_images_per_second
from services.generator.presets import PRESETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
GPUS = (1, 10, 100, 1000)
PER_DAY = (1_000_000, 10_000_000, 100_000_000)
IMAGES_PER_CALL = (1, 16)

# Assumed, not measured: no GPU and no cluster were at hand.
PRESET = "fast"
IMAGE_MB = 0.4  # a PNG of 512 px
GPUS_PER_NODE = 8
EDGE_CORES = 4  # of one edge pod
EDGE_MB_PER_SECOND = 25_000 / 8  # a network card of 25 Gbit/s
DATABASE_CORES = 8
STORE_READS_PER_SECOND = 5_500  # what S3 promises for one prefix
PEAK_OVER_MEAN = 3.0
FULL = 0.7
"""Share of its capacity above which a part is marked."""


@dataclass(frozen=True)
class Part:
    """One part of the system and its use at a load.

    Attributes:
        used: Share of its capacity per GPU (or per classification a second).
        fixed: Share that it takes without any.
        grows: Whether there is one of it per node, so that its share is always that of one.
    """

    name: str
    capacity: str
    used: float
    fixed: float = 0.0
    per_node: bool = False

    def share(self, amount: float) -> float:
        """Share of its capacity at a load."""
        if self.per_node:
            amount = min(amount, GPUS_PER_NODE)
        return self.fixed + self.used * amount

    @property
    def full_at(self) -> float:
        """Load that takes the whole capacity; infinite if the part grows along."""
        at = (1 - self.fixed) / self.used if self.used else float("inf")
        return float("inf") if self.per_node and at > GPUS_PER_NODE else at


def generator_parts(measured: dict[str, Any]) -> list[Part]:
    """Load of each part by images of one GPU."""
    images = assumed_images_per_second(PRESETS[PRESET]) * FLEET_EFFICIENCY
    stream, replicas = measured["stream"], measured["replicas"]

    def cores(part: str) -> float:
        per_image = stream["seconds_per_image"][part]
        return images * (per_image + IMAGE_MB * stream["seconds_per_megabyte"][part])

    def kept(part: str) -> tuple[float, float]:
        idle = replicas["seconds_per_second"][part]
        return replicas["seconds_per_second_and_replica"][part], idle

    jobs = 1 / GPUS_PER_NODE
    database = measured["database"]
    beats = database["heartbeats_per_job_hour"] / 3600 * database["heartbeat"]["cpu_seconds"]
    checkpoint = measured["store"]["checkpoint_of_two_files"]
    requests = sum(checkpoint.values()) / measured["store"]["least_seconds_between_checkpoints"]
    return [
        Part("generator's front", "1 process, 1 core", cores("front")),
        Part("edge, processor", f"1 pod, {EDGE_CORES} cores", cores("edge") / EDGE_CORES),
        Part("edge, network", "1 pod, 25 Gbit/s", images * IMAGE_MB / EDGE_MB_PER_SECOND),
        Part("Serve controller", "1 process, 1 core", *kept("controller")),
        Part("GCS", "1 process, 1 core", *kept("gcs")),
        Part("database: heartbeats", f"{DATABASE_CORES} cores", jobs * beats / DATABASE_CORES),
        Part("store: checkpoints", "5,500 requests/s", jobs * requests / STORE_READS_PER_SECOND),
    ]


def classifier_parts(measured: dict[str, Any], images_per_call: int) -> list[Part]:
    """What one classification a second takes of each part."""
    classify, calls = measured["classify"], 1 / images_per_call

    def cores(part: str) -> float:
        per_image = classify["seconds_per_image"][part]
        return calls * classify["seconds_per_call"][part] + per_image

    lookup = measured["database"]["alias"]["cpu_seconds"]
    reads = sum(measured["store"]["classify_call"].values())
    return [
        Part("classifier replica", "1 process, 1 core", cores("classifier")),
        Part("edge, processor", f"1 pod, {EDGE_CORES} cores", cores("edge") / EDGE_CORES),
        Part("database: alias", f"{DATABASE_CORES} cores", calls * lookup / DATABASE_CORES),
        Part("store: does it exist", "5,500 requests/s", calls * reads / STORE_READS_PER_SECOND),
    ]


def generator_table(measured: dict[str, Any]) -> str:
    """Markdown table of each part's load by the number of GPUs."""
    parts = generator_parts(measured)
    head = " | ".join(f"{count:,} GPU{'s' if count > 1 else ''}" for count in GPUS)
    rows = [f"| part | there is | {head} | full at |", "|---|---|" + "--:|" * (len(GPUS) + 1)]
    for part in parts:
        shares = " | ".join(percent(part.share(count)) for count in GPUS)
        at = "grows along" if part.full_at == float("inf") else f"{part.full_at:,.0f} GPUs"
        rows.append(f"| {part.name} | {part.capacity} | {shares} | {at} |")
    rows += ["", in_order(parts, "GPUs")]
    return "\n".join(rows)


def classifier_table(measured: dict[str, Any]) -> str:
    """Markdown table of the parts that a day's classifications take."""
    head = " | ".join(f"{count:,} a day" for count in PER_DAY)
    rows = [f"| images a call | part | one is | {head} |", "|--:|---|---|" + "--:|" * len(PER_DAY)]
    for images in IMAGES_PER_CALL:
        for part in classifier_parts(measured, images):
            shares = (part.share(count / 86400 * PEAK_OVER_MEAN) for count in PER_DAY)
            cells = " | ".join(f"{share:,.2f}" for share in shares)
            rows.append(f"| {images} | {part.name} | {part.capacity} | {cells} |")
    return "\n".join(rows)


def unit_table(measured: dict[str, Any]) -> str:
    """Markdown: the measured figures themselves."""
    classify, stream = measured["classify"], measured["stream"]
    database, replicas = measured["database"], measured["replicas"]
    rows = ["| what | of which part | CPU time |", "|---|---|--:|"]
    for part in ("edge", "classifier"):
        rows.append(f"| a Classify call | {part} | {ms(classify['seconds_per_call'][part])} |")
        what = f"each image in it ({classify['image_bytes'] / 1000:.0f} kB)"
        rows.append(f"| {what} | {part} | {ms(classify['seconds_per_image'][part])} |")
    for part in ("edge", "front"):
        rows.append(f"| an image of a stream | {part} | {ms(stream['seconds_per_image'][part])} |")
        a_megabyte = stream["seconds_per_megabyte"][part]
        speed = f", so {1 / a_megabyte:,.0f} MB/s a core" if a_megabyte else ""
        rows.append(f"| each megabyte of it | {part} | {ms(a_megabyte)}{speed} |")
    for name, what in (
        ("heartbeat", "a heartbeat"),
        ("alias", "an alias looked up"),
        ("look_for_work", "a look for work"),
    ):
        each = database[name]
        number = f"{each['transactions']:.0f} transaction" + "s" * (each["transactions"] > 1)
        rows.append(f"| {what} ({number}) | PostgreSQL | {ms(each['cpu_seconds'])} |")
    for part in ("controller", "gcs"):
        idle = replicas["seconds_per_second"][part]
        each_replica = replicas["seconds_per_second_and_replica"][part]
        rows.append(f"| a second of an idle stack | {part} | {ms(idle)} |")
        rows.append(f"| a second of one more idle replica | {part} | {ms(each_replica)} |")
    return "\n".join(rows)


def in_order(parts: list[Part], unit: str) -> str:
    """One sentence: which part is full first, and which next."""
    full = sorted((part.full_at, part.name) for part in parts if part.full_at != float("inf"))
    words = [f"{name} ({at:,.0f} {unit})" for at, name in full]
    return f"In this order they are full: {', '.join(words)}."


def percent(share: float) -> str:
    """A share for a table, bold where it is too much."""
    text = f"{share:.1%}" if share < 0.1 else f"{share:,.0%}"
    return f"**{text}**" if share > FULL else text


def ms(seconds: float) -> str:
    """CPU time for a table."""
    return f"{seconds * 1000:,.3f} ms" if seconds < 0.001 else f"{seconds * 1000:,.2f} ms"


def refreshed(page: str, measured: dict[str, Any] | None = None) -> str:
    """The page with its tables renewed, from ``measured`` or its own."""
    if measured is None:
        measured = json.loads(around(page, "figures")[1].strip("\n`json"))
    # Through JSON, so that numbers as keys look the same at any time.
    raw = json.dumps(measured, indent=1)
    measured = json.loads(raw)
    for name, text in dict(_tables(measured, raw)).items():
        before, _, after = around(page, name)
        page = f"{before}\n\n{text}\n\n{after}"
    return page


def _tables(measured: dict[str, Any], raw: str) -> Iterator[tuple[str, str]]:
    yield "where", f"Measured on {measured['machine']}, {measured['date']}."
    yield "units", unit_table(measured)
    yield "generator", generator_table(measured)
    yield "classifier", classifier_table(measured)
    yield "figures", f"```json\n{raw}\n```"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, help="out/bench/scaling.json")
    arguments = parser.parse_args()
    measured = json.loads(arguments.measured.read_text()) if arguments.measured else None
    PAGE.write_text(refreshed(PAGE.read_text(), measured))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
