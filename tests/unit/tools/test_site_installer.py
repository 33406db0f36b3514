"""uv uses the mirror and the certificates that pip is configured with."""

from __future__ import annotations

import http.server
import os
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cytosynth.stack.certs import make_certificates
from tools import site_installer

SCRIPT = Path(site_installer.__file__)
METADATA = "Metadata-Version: 2.1\nName: toy-cells\nVersion: 1.0\n"


class Mirror:
    """A package index on loopback with one package, ``toy-cells``."""

    def __init__(self, folder: Path, certificates: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        page = folder / "simple/toy-cells"
        page.mkdir(parents=True)
        wheel = "toy_cells-1.0-py3-none-any.whl"
        with zipfile.ZipFile(page / wheel, "w") as archive:
            archive.writestr("toy_cells.py", "")
            archive.writestr("toy_cells-1.0.dist-info/METADATA", METADATA)
            archive.writestr(
                "toy_cells-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr("toy_cells-1.0.dist-info/RECORD", "")
        (page / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments, **named) -> None:
                super().__init__(*arguments, directory=str(folder), **named)

            def log_message(self, format: str, *values: object) -> None:
                asked.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificates:
            self.server.socket = certificates.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if certificates else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    served = Mirror(tmp_path / "mirror")
    yield served
    served.close()


def install(tmp_path: Path, config: str, tool: str = "uv") -> subprocess.CompletedProcess[str]:
    """Installs ``toy-cells`` with this ``pip.conf`` and no other setting."""
    (tmp_path / "pip.conf").write_text(config)
    arguments = ["pip", "install"] if tool == "uv" else ["install"]
    return subprocess.run(
        [sys.executable, SCRIPT, tool, *arguments, "--target", tmp_path / "target", "toy-cells"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "UV_CACHE_DIR": str(tmp_path / "cache"),
            "UV_PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_the_mirror_of_pip_conf_is_asked(tool: str, mirror: Mirror, tmp_path: Path) -> None:
    done = install(tmp_path, f"[global]\nindex-url = {mirror.url}\n", tool)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/toy_cells.py").exists()
    assert any(path.endswith(".whl") for path in mirror.asked)


def test_links_of_a_site_without_an_index_are_handed_on(mirror: Mirror, tmp_path: Path) -> None:
    done = install(tmp_path, f"[install]\nno-index = true\nfind-links = {mirror.url}/toy-cells/\n")
    assert done.returncode == 0, done.stderr
    assert mirror.asked


def test_a_mirror_with_the_certificate_of_a_company_is_trusted(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "certs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server.certificate, made.server.key)
    mirror = Mirror(tmp_path / "mirror", context)
    try:
        refused = install(tmp_path, f"[global]\nindex-url = {mirror.url}\n")
        assert refused.returncode != 0 and "UnknownIssuer" in refused.stderr
        done = install(tmp_path, f"[global]\nindex-url = {mirror.url}\ncert = {made.ca}\n")
        assert done.returncode == 0, done.stderr
    finally:
        mirror.close()


def test_later_sections_of_pips_settings_win() -> None:
    listed = (
        "global.index-url='https://a.example/simple'\n"
        "global.extra-index-url='\\nhttps://b.example/simple\\nhttps://c.example/simple'\n"
        "install.index-url='https://d.example/simple'\n"
        "freeze.timeout='1'\n"
        ":env:.find-links='/wheels https://e.example/links'\n"
    )
    told = site_installer.uv_environment(site_installer.pip_settings(listed))
    assert told == {
        "UV_SYSTEM_CERTS": "1",
        "UV_DEFAULT_INDEX": "https://d.example/simple",
        "UV_INDEX": "https://b.example/simple https://c.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://e.example/links",
    }


def test_an_old_pip_is_told_of_the_systems_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.touch()
    monkeypatch.setattr(site_installer, "_SYSTEM_BUNDLES", (str(tmp_path / "no"), str(bundle)))
    assert site_installer.pip_environment({}, (23, 2)) == {"PIP_CERT": str(bundle)}
    assert site_installer.pip_environment({}, (24, 2)) == {}
    assert site_installer.pip_environment({"cert": "/own.crt"}, (23, 2)) == {}
