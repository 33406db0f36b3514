"""Tells class folders from splits and wrappers, and names their classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cytosynth.cell_classes import (
    is_known_class,
    resolve_class_id,
    similar_class,
    suggest_class_id,
)
from cytosynth.image_folder.problems import ImageFolderError, Problem, named, printable
from cytosynth.image_folder.walk import Files, FoundFile

_SPLIT = re.compile(
    r"(train(ing)?|test(ing)?|val(id(ation)?)?|dev|hold[ _-]?out|eval(uation)?)"
    r"[ _-]*(set|data|images|split)?[ _-]*\d*"
    r"|(fold|split|cv)[ _-]*\d+",
    re.IGNORECASE,
)
#: Folders below the top in which a split is looked for.
_SPLIT_DEPTH = 3


def class_ids_of(files: Files, images: Sequence[FoundFile]) -> tuple[dict[str, str], list[str]]:
    """Class id by top folder, and notices about names and sub-folders.

    Raises:
        ImageFolderError: The folders are a split or lie above the class folders, a name is no
            class, or two folders are one class.
    """
    folders = sorted({image.parts[:-1] for image in images})
    _refuse_splits(files, folders)
    top = sorted({parts[0] for parts in folders})
    classes = {name: resolve_class_id(name) for name in top}
    _refuse_wrappers(files, folders, classes)
    bad = [name for name, class_id in classes.items() if not class_id]
    if bad:
        raise ImageFolderError(
            [
                Problem(
                    "class_id",
                    f"the folder name {printable(name)!r} is not a class id; "
                    f"rename it, for example to {suggest_class_id(name)!r}",
                )
                for name in bad
            ],
            "class ids have a-z, 0-9 and _, and start with a letter",
        )
    by_class: dict[str, list[str]] = {}
    for name, class_id in classes.items():
        by_class.setdefault(class_id, []).append(name)
    twice = {class_id: names for class_id, names in by_class.items() if len(names) > 1}
    if twice:
        raise ImageFolderError(
            [
                Problem("folder", f"{' and '.join(names)} are both the class {class_id}")
                for class_id, names in twice.items()
            ],
            "put their images into one folder, or rename one",
        )
    return classes, [*_name_notices(classes), *_folder_notices(folders, classes)]


def _refuse_splits(files: Files, folders: Sequence[tuple[str, ...]]) -> None:
    """Raise where folders are named like the parts of a split."""
    parts_of_split: dict[tuple[str, ...], set[str]] = {}
    for parts in folders:
        for depth, name in enumerate(parts[:_SPLIT_DEPTH]):
            if _SPLIT.fullmatch(name):
                below = parts_of_split.setdefault(parts[: depth + 1], set())
                below.update(parts[depth + 1 : depth + 2])
                break
    if not parts_of_split:
        return
    shown = [printable("/".join(parts)) for parts in parts_of_split]
    above = [parts for parts, below in parts_of_split.items() if below]
    if above:
        remedy = (
            "Cytosynth splits by itself, no patient on both sides: name one of them, for example "
            f"`{files.command('/'.join(above[0]))}` with its own rows of "
            "labels.csv, or move the images together by class"
        )
    elif all(len(parts) == 1 for parts in parts_of_split):
        remedy = "put the images into one folder per class, or rename the folder if it is a class"
    else:
        remedy = (
            "Cytosynth splits by itself, no patient on both sides: keep the images of one of "
            "them, or move them together into their class folders"
        )
    verb = "is" if len(shown) == 1 else "are"
    text = f"{named(shown)} {verb} named like a part of a split (train, test), not like a class"
    raise ImageFolderError([Problem("folder", text)], remedy)


def _refuse_wrappers(
    files: Files, folders: Sequence[tuple[str, ...]], classes: dict[str, str]
) -> None:
    """Raise if a folder of unknown class holds folders of known classes."""
    wrappers: dict[tuple[str, ...], list[str]] = {}
    for parts in folders:
        if is_known_class(classes[parts[0]]):
            continue
        for depth, name in enumerate(parts[1:], 1):
            if is_known_class(resolve_class_id(name)):
                inner = wrappers.setdefault(parts[:depth], [])
                if name not in inner:
                    inner.append(name)
                break
    if wrappers:
        first = "/".join(next(iter(wrappers)))
        raise ImageFolderError(
            [
                Problem(printable("/".join(parts)), f"holds the class folders {named(inner)}")
                for parts, inner in wrappers.items()
            ],
            f"name the folder that class folders lie in, for example `{files.command(first)}`",
        )


def _name_notices(classes: dict[str, str]) -> list[str]:
    read_as = [f"{name} as {class_id}" for name, class_id in classes.items() if name != class_id]
    notices = [f"class folders read: {named(read_as, len(read_as))}"] if read_as else []
    unknown = [each for each in classes.values() if not is_known_class(each)]
    if unknown:
        notices.append(
            f"no base of this package knows {named(map(_with_hint, unknown), 10)}: "
            "an adapter learns such a class from these images alone, without cells of the base"
        )
    return notices


def _with_hint(class_id: str) -> str:
    similar = similar_class(class_id)
    return f"{class_id} (is it {similar}?)" if similar else class_id


def _folder_notices(folders: Sequence[tuple[str, ...]], classes: dict[str, str]) -> list[str]:
    notices = []
    inner = sorted({parts[1] for parts in folders if len(parts) > 1})
    if len(classes) == 1 and len(inner) > 1 and not is_known_class(next(iter(classes.values()))):
        name = next(iter(classes))
        notices.append(
            f"all images are of one class, {name}, in the sub-folders {named(inner)}; "
            f"if these are the classes, name the folder {name} instead"
        )
    narrower = [
        f"{parts[0]}/{parts[1]}"
        for parts in folders
        if len(parts) > 1
        and is_known_class(other := resolve_class_id(parts[1]))
        and other != classes[parts[0]]
    ]
    if narrower:
        notices.append(f"{named(sorted(set(narrower)))}: read as the class of the upper folder")
    return notices
