"""Put a trained model into ``models/`` with its manifest and model card.

    python -m pretraining.export diffusion_base build/cyto-small --autoencoder build/ae \
        --real ../shared/data/wbc-pbc-barcelona --name cyto-small
    python -m pretraining.export clip_base build/cyto-clip-phantoms --name cyto-clip-phantoms
    python -m pretraining.export resnet_base build/cyto-resnet --name cyto-resnet \
        --real ../shared/data/wbc-pbc-barcelona

The manifest lists the SHA-256 and the perceptual hash of every real image the model has seen. A
study can therefore refuse to test on any of these images.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderDC

from cytosynth.phantoms import CELL_TYPES
from pretraining.corpus import REAL_CENTER_CROP, SIZE_PX, seen_images
from services.common.images.codec import decode_image, perceptual_hash, sha256_hex
from services.common.models.bespoke_solvers import BESPOKE_SOLVER_FILE
from services.common.models.diffusion_bases import folder_revision

CITATION = (
    "A. Acevedo, A. Merino, S. Alférez, Á. Molina, L. Boldú, J. Rodellar, A dataset of microscopic "
    "peripheral blood cell images for development of automatic recognition systems, Data in Brief "
    "30 (2020) 105474, doi 10.1016/j.dib.2020.105474; images doi 10.17632/snkd93bnjr.1, CC BY 4.0"
)
MAX_BYTES = 25_000_000


def new_manifest(kind: str, folder: Path, name: str, real: Path | None, records: dict) -> dict:
    """Manifest of a model folder: kind, training images, training record, files."""
    images = seen_images(real) if real else []
    data = [path.read_bytes() for path in images]
    return {
        "name": name,
        "kind": kind,
        "license": "Apache-2.0",
        "image_size_px": SIZE_PX,
        "class_ids": sorted(CELL_TYPES),
        "training": records,
        "sources": ["cytosynth.phantoms"] + (["wbc-pbc-barcelona"] if real else []),
        "citations": [CITATION] if real else [],
        "digests": sorted(sha256_hex(d) for d in data),
        "phashes": sorted({perceptual_hash(decode_image(d, "image")) for d in data}),
        "files": {
            str(p.relative_to(folder)): sha256_hex(p.read_bytes())
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in ("manifest.json", "README.md")
        },
    }


def write(folder: Path, manifest: dict) -> None:
    """Write ``manifest.json`` and the model card."""
    write_manifest(folder, manifest)
    real = (
        f"{len(manifest['digests'])} images of wbc-pbc-barcelona (the six tenths that "
        f"their SHA-256 selects; centre square of {REAL_CENTER_CROP} of the side), "
        f"listed by digest in `manifest.json`. {CITATION}."
        if manifest["digests"]
        else "None: this model has never seen a real cell."
    )
    (folder / "README.md").write_text(
        f"# {manifest['name']}\n\n{manifest['description']}\n\n"
        "Research use only; not a medical device.\n\n"
        f"| | |\n| --- | --- |\n"
        f"| Phantoms | procedural cells of all 15 classes, each from a laboratory of its own "
        f"(`cytosynth.phantoms`) |\n"
        f"| Real images | {real} |\n"
        f"| Licence of the weights | Apache-2.0 |\n"
        f"| Recipe | {manifest['recipe']} |\n"
        f"| Training | `{json.dumps(manifest['training'])}` |\n"
        + "".join(f"| {what} | {figure} |\n" for what, figure in manifest["figures"].items())
    )


def record_figure(folder: Path, what: str, figure: str) -> None:
    """Put a measured figure into a model's manifest and card."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["figures"][what] = figure
    write(folder, manifest)


def write_bespoke_solver(folder: Path, solver: dict, record: dict) -> None:
    """Write a base's bespoke solver and record its fitting."""
    revision = folder_revision(folder)
    content = {"base_revision": revision, **solver}
    path = folder / BESPOKE_SOLVER_FILE
    path.write_text(json.dumps(content, indent=1) + "\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name] = sha256_hex(path.read_bytes())
    manifest["training"]["bespoke_solver"] = record
    step = f"`python -m pretraining.fit_solver --name {manifest['name']}`"
    if step not in manifest["recipe"]:
        manifest["recipe"] += f". The solver of its preset `fast`: {step}"
    write(folder, manifest)


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write ``manifest.json``, indented."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def remove_local_paths(folder: Path) -> None:
    """Remove the local paths that diffusers writes into configurations."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def export(kind: str, build: Path, autoencoder: Path | None, name: str, real: Path | None) -> Path:
    """Copy ``build`` to ``models/<name>`` and write manifest and card.

    Raises:
        ValueError: If the weights exceed ``MAX_BYTES``.
    """
    out = Path(__file__).parents[1] / "models" / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(build, out, ignore=shutil.ignore_patterns("training.json"))
    if autoencoder is not None:  # its decoder may have been trained further
        AutoencoderDC.from_pretrained(autoencoder).half().save_pretrained(out / "vae")
    remove_local_paths(out)
    size = sum(p.stat().st_size for p in out.rglob("*.safetensors"))
    if size > MAX_BYTES:
        raise ValueError(f"{name} weighs {size} bytes, more than {MAX_BYTES}")
    records = {kind: json.loads((build / "training.json").read_text())}
    flag = " --real ../shared/data/wbc-pbc-barcelona" if real else ""
    if kind == "diffusion_base":
        assert autoencoder is not None
        records["autoencoder"] = json.loads((autoencoder / "training.json").read_text())
        what = (
            "A small StableDiffusionPipeline for single white blood cells: 64 px, 8x autoencoder "
            "with 48 latent channels (principal components), UNet of 8 M parameters, own text "
            "encoder and tokenizer. diffusers' AutoencoderDC does not take all that the pipeline "
            'hands a decoder: outside this project call it with `output_type="latent"` and '
            "decode with its `vae`."
        )
        recipe = (
            f"`python -m pretraining.train_autoencoder{flag}`, then "
            f"`python -m pretraining.train_diffusion{flag}`"
        )
    elif kind == "resnet_base":
        what = "A ResNet-18 without its last layer, to start classifiers of single cells at 64 px."
        recipe = f"`python -m pretraining.train_resnet{flag}`"
    else:
        what = "A small open_clip model for single white blood cells at 64 px (ResNet tower)."
        recipe = f"`python -m pretraining.train_clip{flag}`"
    manifest = new_manifest(kind, out, name, real, records)
    manifest |= {"description": what, "recipe": recipe, "figures": {}}
    if "architecture" in records[kind]:
        manifest["architecture"] = records[kind]["architecture"]
    write(out, manifest)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("diffusion_base", "clip_base", "resnet_base"))
    parser.add_argument("build", type=Path)
    parser.add_argument("--autoencoder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--real", type=Path, help="folder of the real images it was trained on")
    args = parser.parse_args()
    print(export(args.kind, args.build, args.autoencoder, args.name, args.real))
