"""Deletes artifacts and records that in the job database.

    python -m services.common.deletions export > deletions.jsonl   # keep it apart from the backups
    python -m services.common.deletions again [deletions.jsonl]    # after a restore

A backup still holds what was deleted after it was made. ``again`` deletes whatever is there
although its deletion was asked for, as the database says, or an export that may be newer than it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from services.common import resource_names
from services.common.database.deletions import Deletion
from services.common.database.jobs import JobDatabase
from services.common.errors import NotFound, ResourceExhausted
from services.common.settings import CommonSettings
from services.common.storage_errors import storage_error
from services.common.store.artifacts import ArtifactStore, DeletionProof


def delete_artifact(
    store: ArtifactStore, database: JobDatabase, tenant: str, kind: str, id: str
) -> DeletionProof:
    """Removes an artifact and keeps the proof.

    Where storage is too full for the note, the removal comes first: it makes the room.

    Raises:
        NotFound: If there is no such artifact.
        DataLoss: If an object is still there afterwards; asked again, it goes on.
    """
    name = resource_names.build(kind, id)
    is_noted = True
    try:
        database.deletions.begin(tenant, name)
    except Exception as error:
        if not isinstance(storage_error(error), ResourceExhausted):
            raise
        is_noted = False
    try:
        proof = store.delete(tenant, kind, id)
    except NotFound:
        if is_noted:
            database.deletions.forget(tenant, name)
        raise
    if not is_noted:
        database.deletions.begin(tenant, name)
    database.deletions.end(tenant, name, proof["digest"], proof["num_objects"])
    return proof


def delete_again(
    store: ArtifactStore, database: JobDatabase, deletions: Iterable[Deletion]
) -> list[str]:
    """Deletes artifacts that a restore brought back; returns ``tenant: name`` of each."""
    done = []
    for deletion in deletions:
        kind, _, id = deletion.name.partition("/")
        try:
            delete_artifact(store, database, deletion.tenant, kind, id)
        except NotFound:
            # The database may be older than the deletion, and must know of it from now on.
            database.deletions.begin(deletion.tenant, deletion.name)
            if deletion.digest:
                database.deletions.end(
                    deletion.tenant, deletion.name, deletion.digest, deletion.num_objects
                )
            continue
        done.append(f"{deletion.tenant}: {deletion.name}")
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports the deletions, or repeats them."""
    parser = argparse.ArgumentParser(prog="python -m services.common.deletions")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("export", help="one JSON object a line")
    again = verbs.add_parser("again", help="delete what a restore has brought back")
    again.add_argument("file", nargs="?", type=Path, help="an export")
    options = parser.parse_args(arguments)
    settings = CommonSettings.load_for(parser)
    database = JobDatabase(settings.database_url)
    try:
        deletions = database.deletions.list()
        if options.verb == "export":
            for deletion in deletions:
                sys.stdout.write(json.dumps(asdict(deletion)) + "\n")
            return 0
        if options.file:
            lines = options.file.read_text().splitlines()
            deletions += [Deletion(**json.loads(line)) for line in lines if line.strip()]
        done = delete_again(ArtifactStore(settings.store_uri), database, deletions)
    finally:
        database.close()
    for name in done:
        sys.stdout.write(f"deleted again  {name}\n")
    sys.stdout.write(f"{len(done)} artifacts were there although they had been deleted\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
