"""The services of the scaling benchmark: generator replicas compute nothing.

The request's seed names the size of the payload that reaches the generator's front. Edge, proxy and
front are thus measured at the image sizes of larger bases than a CPU can sample.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray import serve

from services.classifier import app as classifier_app
from services.common.rpc.server import Listen
from services.generator.app import SAMPLER_NAME, Generator
from services.generator.config import GeneratorSettings
from services.generator.plan import SyntheticImage
from services.generator.shards import Shard
from services.trainer import app as trainer_app

IDLE_VARIABLE = "BENCHMARK_IDLE_REPLICAS"


class PayloadSampler:
    """Streams so many bytes an image as the request's seed says."""

    async def render(self, shard: Shard) -> AsyncGenerator[list[SyntheticImage], None]:
        data = os.urandom(shard.plan.seed)
        for index, class_id in shard.plan.classes_by_index(shard.first, shard.end):
            seed = shard.plan.image_seed(class_id, index)
            yield [SyntheticImage(index, class_id, seed, data, 1, 1)]


class Idle:
    """A replica with nothing to do but to be looked after."""

    def __call__(self) -> str:
        return ""


def build_apps(listen: Mapping[str, Listen]) -> dict[str, Any]:
    """The three services, and as many idle replicas as ``IDLE_VARIABLE`` says."""
    settings = GeneratorSettings.load()
    samplers = serve.deployment(PayloadSampler).options(
        name=SAMPLER_NAME, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
    )
    front = serve.deployment(Generator).options(name="Generator", ray_actor_options={"num_cpus": 0})
    apps = {
        "generator": front.bind(settings, samplers.bind(), listen["generator"]),
        "classifier": classifier_app.build_app(listen=listen["classifier"]),
        "trainer": trainer_app.build_app(listen=listen["trainer"]),
    }
    if num_idle := int(os.environ.get(IDLE_VARIABLE, "0")):
        idle = serve.deployment(Idle).options(
            num_replicas=num_idle,
            ray_actor_options={"num_cpus": 0},
            health_check_period_s=1.0,  # as the services'
        )
        apps["idle"] = idle.bind()
    return apps
