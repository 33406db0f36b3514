"""Downloads the files of a report, each complete or absent."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import grpc

from cytosynth.client.atomic_files import write_whole
from cytosynth.client.connection import Connection, retry_delay
from cytosynth.client.errors import CytosynthError
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

DOWNLOAD_SECONDS = 600.0
MAX_TRIES = 5


def download_report(
    connection: Connection,
    stub: trainer_pb2_grpc.TrainerServiceStub,
    name: str,
    folder: Path,
) -> list[Path]:
    """Download and return the paths; a broken stream restarts from its beginning."""
    for num_failures in range(1, MAX_TRIES + 1):
        try:
            contents = _receive(connection, stub, name)
            break
        except CytosynthError as error:
            may_retry = error.code in ("UNAVAILABLE", "INTERNAL", "UNKNOWN")
            if not may_retry or num_failures == MAX_TRIES or connection.closed:
                raise
            connection.pause(max(retry_delay(num_failures), error.retry_after_seconds))
    paths = [folder / _safe(file_name) for file_name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_whole(path, bytes(content))
    return paths


def _receive(
    connection: Connection, stub: trainer_pb2_grpc.TrainerServiceStub, name: str
) -> dict[str, bytearray]:
    contents: dict[str, bytearray] = {}
    call = None
    try:
        call = stub.DownloadReport(
            trainer_pb2.DownloadReportRequest(name=name),
            timeout=connection.timeout_seconds or DOWNLOAD_SECONDS,
            metadata=connection.metadata,
        )
        for response in call:
            contents.setdefault(response.file_name, bytearray()).extend(response.chunk)
    except grpc.RpcError as error:
        raise connection.error(error) from None
    except ValueError:
        raise connection.closed_error() from None
    finally:
        if call is not None:
            call.cancel()
    return contents


def _safe(file_name: str) -> PurePosixPath:
    path = PurePosixPath(file_name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file_name:
        raise CytosynthError("DATA_LOSS", f"the report holds a file named {file_name!r}")
    return path
