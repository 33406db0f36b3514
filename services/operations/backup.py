"""Copies database, then store, while both are in use.

    python -m services.operations.backup database /backup/jobs.db     # SQLite; PostgreSQL: pg_dump
    python -m services.operations.backup store file:///backup/store   # only what is not there yet
    python -m services.operations.backup restore-store file:///backup/store

Whatever the database names was in the store before it was named, and never changes; so a store that
was copied after the database has all of it, but for what was deleted in between.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from services.common.errors import DataLoss, NotFound
from services.common.resource_names import KINDS, build
from services.common.settings import CommonSettings
from services.common.store.artifact_folder import DELETING, MANIFEST
from services.common.store.artifacts import ArtifactStore
from services.common.store.files import StoreFiles

_READ_AT_ONCE = 16


class BackupRefused(Exception):
    """The copy cannot be made; the message says what to do instead."""


@dataclass
class Copied:
    """Result of copying a store; damaged artifacts are not copied."""

    num_artifacts: int = 0
    num_files: int = 0
    num_there: int = 0
    damaged: tuple[str, ...] = ()


def copy_database(database_url: str, target: Path) -> None:
    """A consistent copy of an SQLite database that may be in use.

    Raises:
        BackupRefused: If it is no SQLite file, or the target is there already.
    """
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise BackupRefused("this is for SQLite; use pg_dump --format=custom for PostgreSQL")
    if target.exists():
        raise BackupRefused(f"{target} is there already")
    if not Path(url.database).exists():
        raise BackupRefused(f"there is no database {url.database}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(sqlite3.connect(url.database)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)


def copy_store(source_uri: str, target_uri: str) -> Copied:
    """Copies artifacts that the target lacks, manifests last, without drafts."""
    source, target = ArtifactStore(source_uri), StoreFiles(target_uri)
    from_files = StoreFiles(source_uri)
    done = Copied()
    for tenant in source.tenants():
        for kind in KINDS:
            for id in source.folders(tenant, kind):
                folder = f"tenants/{tenant}/{build(kind, id)}"
                if target.has(f"{folder}/{MANIFEST}"):
                    done.num_there += 1
                    continue
                if from_files.has(f"{folder}/{DELETING}"):
                    continue
                try:
                    manifest = from_files.read(f"{folder}/{MANIFEST}")
                    paths = list(source.get_manifest(tenant, kind, id)["files"])
                    while paths:
                        group, paths = paths[:_READ_AT_ONCE], paths[_READ_AT_ONCE:]
                        for path, data in source.read_many(tenant, kind, id, group).items():
                            target.write(f"{folder}/{path}", data)
                            done.num_files += 1
                except (FileNotFoundError, NotFound):  # a draft, or deleted meanwhile
                    target.remove_folder(folder)
                    continue
                except DataLoss as error:
                    target.remove_folder(folder)
                    done.damaged += (f"{tenant}: {error}",)
                    continue
                target.write(f"{folder}/{MANIFEST}", manifest)
                done.num_artifacts += 1
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Copies; exit status 1 if something could not be copied."""
    parser = argparse.ArgumentParser(prog="python -m services.operations.backup")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("database", help="an SQLite database").add_argument("target", type=Path)
    verbs.add_parser("store", help="the artifact store").add_argument("target")
    verbs.add_parser("restore-store", help="back into the artifact store").add_argument("source")
    options = parser.parse_args(arguments)
    settings = CommonSettings.load_for(parser)
    try:
        if options.verb == "database":
            copy_database(settings.database_url, options.target)
            sys.stdout.write(f"database copied to {options.target}\n")
            return 0
    except BackupRefused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.verb == "store":
        done = copy_store(settings.store_uri, options.target)
    else:
        done = copy_store(options.source, settings.store_uri)
    for problem in done.damaged:
        sys.stderr.write(f"not copied: {problem}\n")
    sys.stdout.write(
        f"{done.num_artifacts} artifacts copied ({done.num_files} files), "
        f"{done.num_there} were there, {len(done.damaged)} are damaged\n"
    )
    return 1 if done.damaged else 0


if __name__ == "__main__":
    raise SystemExit(main())
