"""A job on the server: get, watch, wait, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from cytosynth.client import decode
from cytosynth.client.connection import Connection, retry_delay
from cytosynth.client.errors import CytosynthError, JobFailed
from cytosynth.client.records import Job
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

# A job outlives the service: long enough to sit through a restart of the whole stack.
MAX_FAILURES = 40
WATCH_SECONDS = 3600.0
_MAY_RESUME = frozenset({"UNAVAILABLE", "INTERNAL", "ABORTED", "UNKNOWN", "CANCELLED"})


class JobHandle:
    """One job; ``job`` is its latest known state.

    Dropping the handle does not stop the job, which lives on the server.
    """

    def __init__(
        self, connection: Connection, stub: trainer_pb2_grpc.TrainerServiceStub, job: Job
    ) -> None:
        self._connection = connection
        self._stub = stub
        self.job = job

    @property
    def name(self) -> str:
        """``jobs/{job}``."""
        return self.job.name

    def refresh(self) -> Job:
        """Ask for the job's state now."""
        reply = self._connection.call(self._stub.GetJob, trainer_pb2.GetJobRequest(name=self.name))
        self.job = decode.job(reply.job)
        return self.job

    def cancel(self) -> Job:
        """Ask the job to stop; it is ``CANCELLED`` within one training step."""
        request = trainer_pb2.CancelJobRequest(name=self.name)
        self.job = decode.job(self._connection.call(self._stub.CancelJob, request).job)
        return self.job

    def watch(self) -> Iterator[Job]:
        """The job now and whenever it changes, to its final state.

        A broken stream is taken up again; raises ``CytosynthError`` after 40 failures in a row.
        """
        num_failures = 0
        last: Job | None = None
        while last is None or not last.done:
            call = None
            failure = CytosynthError("UNAVAILABLE", "the watch ended before the job did")
            progressed = False
            try:
                call = self._stub.WatchJob(
                    trainer_pb2.WatchJobRequest(name=self.name),
                    timeout=self._connection.timeout_seconds or WATCH_SECONDS,
                    metadata=self._connection.metadata,
                )
                for response in call:
                    num_failures, progressed = 0, True
                    job = decode.job(response.job)
                    if job != last:
                        self.job = last = job
                        yield job
                    if job.done:
                        return
            except grpc.RpcError as error:
                failure = self._connection.error(error)
            except ValueError:
                if not self._connection.closed:
                    raise
                failure = self._connection.closed_error()
            finally:
                if call is not None:
                    call.cancel()
            long_lived = failure.code == "DEADLINE_EXCEEDED" and progressed
            if self._connection.closed or not (long_lived or failure.code in _MAY_RESUME):
                raise failure
            num_failures += 1
            if num_failures >= MAX_FAILURES:
                raise failure
            self._connection.pause(max(retry_delay(num_failures), failure.retry_after_seconds))

    def wait(self, on_progress: Callable[[Job], None] | None = None) -> Job:
        """Follow the job to its end.

        Raises:
            JobFailed: It ended ``FAILED`` (with the error a call would have raised) or
                ``CANCELLED``.
        """
        if not self.job.done:
            for job in self.watch():
                if on_progress:
                    on_progress(job)
        job = self.job
        if job.state == "SUCCEEDED":
            return job
        error = job.error or CytosynthError(
            "CANCELLED" if job.state == "CANCELLED" else "UNKNOWN",
            f"{job.name} was cancelled" if job.state == "CANCELLED" else f"{job.name} failed",
        )
        raise JobFailed(job.name, error)
