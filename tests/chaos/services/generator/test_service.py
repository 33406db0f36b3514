"""Kills, cancels and disconnects while streams run: survivors are exact."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cytosynth.client import CytosynthError, SamplerSettings, SynthesisSettings
from cytosynth.client.generator import GeneratorClient
from tests.support import fakes
from tests.support.servers.local_serve import local_serve, replica_processes

CLASSES = ("monocyte", "basophil", "myeloblast")
NUM_EVENTS = 20

pytestmark = pytest.mark.timeout(1200)


@contextmanager
def generator_of_two(root: Path) -> Iterator[str]:
    """A generator with two sampler replicas on a tiny base; its address."""
    from services.generator.app import APP_NAME, build_app
    from services.generator.config import GeneratorSettings

    fakes.write_tiny_base(root / "models", "tiny", class_ids=CLASSES)
    settings = GeneratorSettings(
        store_uri=f"file://{root}/store",
        models_dir=root / "models",
        default_base="tiny",
        generator_num_slots=8,
        generator_num_threads=1,
        generator_min_replicas=2,
        generator_max_replicas=2,
    )
    with local_serve(build_app(settings), APP_NAME) as address:
        yield address


def images_of(address: str, seed: int, adapter: str = "") -> list[tuple[int, int, bytes]]:
    """(index, image seed, bytes) of 90 images of three classes."""
    with GeneratorClient(address) as client:
        settings = SynthesisSettings(adapter, seed=seed, sampler=SamplerSettings(num_steps=12))
        stream = client.synthesize(dict.fromkeys(CLASSES, 30), settings, max_failures=40)
        return [(image.index, image.image_seed, image.data) for image in stream]


class Survivor(threading.Thread):
    """Asks for the same images again and again; keeps every answer."""

    def __init__(self, address: str, seed: int, until: threading.Event) -> None:
        super().__init__()
        self.address, self.seed, self.until = address, seed, until
        self.answers: list[list[tuple[int, int, bytes]]] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.until.is_set():
                self.answers.append(images_of(self.address, self.seed))
        except BaseException as error:
            self.problem = error


def kill(name: str, chance: random.Random) -> bool:
    """kill -9 of a deployment's process; False if none runs now."""
    running = replica_processes(name)
    if running:
        chance.choice(running).send_signal(signal.SIGKILL)
    return bool(running)


def leave(address: str, chance: random.Random) -> bool:
    """A client that cancels its stream or closes its channel midway."""
    with GeneratorClient(address) as client:
        settings = SynthesisSettings(
            seed=chance.randrange(99), sampler=SamplerSettings(num_steps=30)
        )
        stream = client.synthesize({"monocyte": 5_000}, settings)
        try:
            for _ in range(chance.randrange(1, 4)):
                next(stream)
            if chance.random() < 0.5:
                stream.close()
        except CytosynthError:
            return False  # it was among the victims of the last kill
    return True


def test_streams_survive_twenty_random_failures(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "7")))
    with generator_of_two(tmp_path) as address:
        calm = {seed: images_of(address, seed) for seed in (1, 2, 3)}
        over = threading.Event()
        survivors = [Survivor(address, seed, over) for seed in calm]
        for survivor in survivors:
            survivor.start()
        happened: list[str] = []
        while len(happened) < NUM_EVENTS:
            time.sleep(chance.uniform(0.5, 2.5))
            event = chance.choice(["sampler", "sampler", "front", "leave", "leave", "leave"])
            if event == "leave":
                done = leave(address, chance)
            else:
                done = kill({"sampler": "SamplerReplica", "front": "Generator"}[event], chance)
            happened += [event] if done else []
        over.set()
        for survivor in survivors:
            survivor.join(timeout=300)
            assert not survivor.is_alive(), "a stream hangs"
        kills = sum(event != "leave" for event in happened)
        answers = sum(len(survivor.answers) for survivor in survivors)
        print(f"{kills} kills, {NUM_EVENTS - kills} clients left, {answers} whole streams")
        for survivor in survivors:
            assert survivor.problem is None, survivor.problem
            assert survivor.answers
            for answer in survivor.answers:
                assert answer == calm[survivor.seed]
        assert images_of(address, 1) == calm[1]
