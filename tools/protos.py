"""Generates the protobuf stubs: ``python tools/protos.py [folder]``.

Stubs land in ``<folder>/cytosynth/<service>/v1/`` (default: the repository root), the folders
that match the proto packages, so no generated import is ever edited.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GOOGLE_APIS = ROOT / "third_party" / "googleapis"


def generate(folder: Path) -> list[Path]:
    """Writes the stubs below ``folder``; returns their relative paths.

    Raises:
        RuntimeError: If protoc rejects a proto.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for proto in sorted(PROTOS.rglob("*.proto")):
            outputs = [f"--python_out={scratch}", f"--pyi_out={scratch}"]
            if "\nservice " in proto.read_text():
                outputs.append(f"--grpc_python_out={scratch}")
            includes = [f"-I{PROTOS}", f"-I{GOOGLE_APIS}", f"-I{_well_known_types()}"]
            if protoc.main(["protoc", *includes, *outputs, str(proto)]) != 0:
                raise RuntimeError(f"protoc failed on {proto.relative_to(ROOT)}")
        stubs = sorted(
            path.relative_to(scratch) for path in Path(scratch).rglob("*") if path.is_file()
        )
        for stub in stubs:
            (folder / stub).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(scratch) / stub, folder / stub)
    return stubs


def _well_known_types() -> Path:
    return Path(protoc.__file__).parent / "_proto"


if __name__ == "__main__":
    for written in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(written)
