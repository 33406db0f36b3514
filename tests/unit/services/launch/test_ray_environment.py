"""What Ray's processes inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.launch.ray_environment import ray_environment


def test_a_proxy_is_not_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "registry.example")
    monkeypatch.setenv("NO_PROXY", "registry.example,localhost")
    made = ray_environment(tmp_path / "token")
    assert made["no_proxy"] == made["NO_PROXY"] == "registry.example,localhost,127.0.0.1,::1"
    assert not {"http_proxy", "HTTP_PROXY"} & set(made)


def test_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = ray_environment(tmp_path / "token")
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
