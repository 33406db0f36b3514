"""Peers compute with the versions that we compute with."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[4]
SAME = ("torch", "torchvision", "open-clip-torch", "peft", "pillow", "safetensors", "transformers")


def versions(lock: str) -> dict[str, str]:
    """Versions in a lock file by distribution."""
    text = (REPOSITORY / lock).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_peers_have_our_torch_and_our_models_libraries() -> None:
    ours, theirs = versions("requirements.lock"), versions("benchmarks/classifier/peers.lock")
    assert {name: theirs[name] for name in SAME} == {name: ours[name] for name in SAME}


def test_the_peers_lock_has_hashes_and_names_no_index() -> None:
    text = (REPOSITORY / "benchmarks/classifier/peers.lock").read_text()
    assert text.count("--hash=sha256:") > len(versions("benchmarks/classifier/peers.lock"))
    assert "index-url" not in text
    assert "://" not in text
