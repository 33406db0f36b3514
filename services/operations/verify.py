"""Checks artifact store and job database against each other.

    python -m services.operations.verify [--json]

Reads every file of every artifact, so it costs the store's whole content once. Exit status 1 if
anything is wrong; notes say what is worth knowing and harms nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.common import resource_names
from services.common.database.jobs import FAILED, Job, JobDatabase
from services.common.errors import DataLoss, NotFound
from services.common.resource_names import ADAPTERS, ALIASES, CLASSIFIERS, JOBS, KINDS, REPORTS
from services.common.settings import CommonSettings
from services.common.store.artifacts import ArtifactStore

_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Finding:
    """One fault, or a note."""

    tenant: str
    name: str
    problem: str
    remedy: str = ""
    is_note: bool = False


@dataclass
class Verification:
    """Counts of what was checked, and the findings."""

    num_artifacts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_drafts: int = 0
    num_jobs: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """Findings that are not notes."""
        return [finding for finding in self.findings if not finding.is_note]


def verify(store: ArtifactStore, database: JobDatabase) -> Verification:
    """Checks every tenant's artifacts, and all jobs and aliases against them."""
    done = Verification()
    deleted = {(each.tenant, each.name) for each in database.deletions.list()}
    manifests = dict(_artifacts(store, deleted, done))
    jobs = list(database.all_jobs())
    done.num_jobs = len(jobs)
    done.findings += _parents(manifests, deleted)
    done.findings += _results(jobs, manifests, deleted)
    done.findings += _checkpoints(jobs, manifests)
    done.findings += _strangers(jobs, manifests)
    tenants = {tenant for tenant, _ in manifests} | {job.tenant for job in jobs}
    done.findings += _aliases(database, tenants, manifests, deleted)
    return done


_Key = tuple[str, str]
_Manifests = dict[_Key, dict[str, Any]]


def _artifacts(
    store: ArtifactStore, deleted: set[_Key], done: Verification
) -> Iterator[tuple[_Key, dict[str, Any]]]:
    for tenant in store.tenants():
        for kind in KINDS:
            for id in store.folders(tenant, kind):
                name = resource_names.build(kind, id)
                if store.is_being_deleted(tenant, kind, id) or (
                    (tenant, name) in deleted and store.exists(tenant, kind, id)
                ):
                    problem = "was deleted, and is there (again)"
                    remedy = "python -m services.common.deletions again"
                    done.findings.append(Finding(tenant, name, problem, remedy))
                try:
                    manifest = store.get_manifest(tenant, kind, id)
                except NotFound:
                    done.num_drafts += 1
                    continue
                except ValueError:
                    remedy = "restore it from a backup"
                    done.findings.append(Finding(tenant, name, "its manifest is damaged", remedy))
                    continue
                done.num_artifacts += 1
                done.findings += _files(store, tenant, kind, id, manifest["files"], done)
                yield (tenant, name), manifest


def _files(
    store: ArtifactStore, tenant: str, kind: str, id: str, paths: Iterable[str], done: Verification
) -> Iterator[Finding]:
    left = list(paths)
    while left:
        group, left = left[:_READ_AT_ONCE], left[_READ_AT_ONCE:]
        done.num_files += len(group)
        if _whole(store, tenant, kind, id, group, done):
            continue
        for path in group:
            if not _whole(store, tenant, kind, id, [path], done):
                name = resource_names.build(kind, id)
                problem = f"file {path!r} is missing or damaged"
                yield Finding(tenant, name, problem, "restore it from a backup, or make it again")


def _whole(
    store: ArtifactStore, tenant: str, kind: str, id: str, paths: list[str], done: Verification
) -> bool:
    try:
        contents = store.read_many(tenant, kind, id, paths)
    except DataLoss:
        return False
    except NotFound:  # deleted meanwhile
        return True
    done.num_bytes += sum(map(len, contents.values()))
    return True


def _parents(manifests: _Manifests, deleted: set[_Key]) -> Iterator[Finding]:
    for (tenant, name), manifest in manifests.items():
        for parent in manifest.get("parents", []):
            kind = str(parent).partition("/")[0]
            key = (tenant, parent)
            if kind in KINDS and key not in manifests and key not in deleted:
                yield Finding(tenant, name, f"its parent {parent} is not there", is_note=True)


def _results(jobs: list[Job], manifests: _Manifests, deleted: set[_Key]) -> Iterator[Finding]:
    missing = [
        job
        for job in jobs
        if job.result
        and (job.tenant, job.result) not in manifests
        and (job.tenant, job.result) not in deleted
    ]
    for job in missing:
        problem = f"its result {job.result} is not in the store"
        yield Finding(job.tenant, job.name, problem, "restore a newer copy of the store")
    newest = max((manifest["create_time"] for manifest in manifests.values()), default="")
    if missing and all(job.update_time.isoformat() > newest for job in missing):
        problem = (
            f"is older than the database: its newest artifact is of {newest or 'never'}, and "
            f"{len(missing)} results were made after it"
        )
        yield Finding("", "the store", problem, "restore a copy made after the database's")


def _checkpoints(jobs: list[Job], manifests: _Manifests) -> Iterator[Finding]:
    # The next job of the same request goes on from what a failed one has kept.
    needed = [job for job in jobs if not job.is_final or job.state == FAILED]
    current = {(job.tenant, f"{JOBS}/{job.checkpoint}") for job in needed}
    for job in jobs:
        name = f"{JOBS}/{job.checkpoint}"
        if job.checkpoint and not job.is_final and (job.tenant, name) not in manifests:
            problem = "its checkpoint is not in the store; it will start anew"
            yield Finding(job.tenant, job.name, problem, is_note=True)
    for tenant, name in manifests:
        if name.startswith(f"{JOBS}/") and (tenant, name) not in current:
            yield Finding(tenant, name, "is a checkpoint that no job needs", is_note=True)


def _strangers(jobs: list[Job], manifests: _Manifests) -> Iterator[Finding]:
    known = {(job.tenant, job.id) for job in jobs}
    made_by_jobs = (ADAPTERS, CLASSIFIERS, REPORTS)
    for tenant, name in manifests:
        kind, _, id = name.partition("/")
        if kind in made_by_jobs and (tenant, id) not in known:
            problem = "the database knows no job that made it: the database is older than the store"
            yield Finding(tenant, name, problem, is_note=True)


def _aliases(
    database: JobDatabase, tenants: set[str], manifests: _Manifests, deleted: set[_Key]
) -> Iterator[Finding]:
    for tenant in sorted(tenants):
        for alias in database.aliases.list(tenant):
            target = f"{CLASSIFIERS}/{alias.classifier_id}"
            if (tenant, target) not in manifests:
                gone = (tenant, target) in deleted
                problem = f"names {target}, which {'was deleted' if gone else 'is not there'}"
                remedy = "point it at another: cytosynth alias set"
                yield Finding(tenant, f"{ALIASES}/{alias.alias}", problem, remedy, gone)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was found; exit status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m services.operations.verify")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    settings = CommonSettings.load_for(parser)
    database = JobDatabase(settings.database_url)
    try:
        done = verify(ArtifactStore(settings.store_uri), database)
    finally:
        database.close()
    if options.json:
        sys.stdout.write(json.dumps({**asdict(done), "num_faults": len(done.faults)}) + "\n")
        return 1 if done.faults else 0
    for finding in done.findings:
        remedy = f" ({finding.remedy})" if finding.remedy else ""
        kind = "note " if finding.is_note else "FAULT"
        sys.stdout.write(f"{kind}  {finding.tenant} {finding.name}: {finding.problem}{remedy}\n")
    sys.stdout.write(
        f"{done.num_artifacts} artifacts, {done.num_files} files, {done.num_bytes / 1e6:.1f} MB, "
        f"{done.num_drafts} drafts, {done.num_jobs} jobs: {len(done.faults)} faults\n"
    )
    return 1 if done.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
