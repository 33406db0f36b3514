"""Domain errors, each with a field or resource and a remedy.

Domain code raises these and nothing else on purpose; ``status.py`` is the one place that
turns them into gRPC statuses.  Every message is safe to show to a client: it names what
was wrong and what to do, and never a path, an address or a traceback.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

#: Faults of one request that an error lists, and those that its message tells, at most.
MAX_LISTED, MAX_TOLD = 10, 5


class DomainError(Exception):
    """An expected failure with a message for the client.

    Attributes:
        message: What was wrong and, where known, the remedy.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def _fields(self) -> dict[str, Any]:
        return {"message": self.message}

    def to_dict(self) -> dict[str, Any]:
        """JSON form, which ``from_dict`` reads, for a failed job's record."""
        return {"type": type(self).__name__, **self._fields()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> DomainError:
        """The error that ``to_dict`` wrote."""
        fields = dict(data)
        return _BY_NAME[fields.pop("type")](**fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles errors between replicas; Exception's own reduce would lose the fields.
        return DomainError.from_dict, (self.to_dict(),)


class InvalidArgument(DomainError):
    """The request itself is wrong, whatever the state of the server.

    Attributes:
        field: Path of the request field, for example ``class_counts[0].num_images``.
        problem: What is wrong with it.
        remedy: What to send instead.
        further: Field and problem of further faults of the same request.
        num_more: Faults that are counted and not listed.
    """

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        field: str,
        problem: str,
        remedy: str = "",
        further: Iterable[Sequence[str]] = (),
        num_more: int = 0,
    ) -> None:
        self.field, self.problem, self.remedy = field, problem, remedy
        self.further = [(each[0], each[1]) for each in further]
        self.num_more = num_more
        told = self.further[: MAX_TOLD - 1]
        texts = [text if name == field else f"{name}: {text}" for name, text in told]
        more = len(self.further) - len(told) + num_more
        problems = "; ".join((problem, *texts, *([f"and {more} more"] if more else [])))
        super().__init__(_sentence(f"{field}: {problems}", remedy))

    @classmethod
    def joined(cls, errors: Sequence[InvalidArgument], num_errors: int) -> InvalidArgument:
        """One error for several: the first ``MAX_LISTED`` of ``num_errors``."""
        listed = errors[:MAX_LISTED]
        return cls(
            listed[0].field,
            listed[0].problem,
            "; ".join(dict.fromkeys(each.remedy for each in listed if each.remedy)),
            [(each.field, each.problem) for each in listed[1:]],
            num_errors - len(listed),
        )

    def _fields(self) -> dict[str, Any]:
        fields = {"field": self.field, "problem": self.problem, "remedy": self.remedy}
        more = {"further": self.further, "num_more": self.num_more}
        return fields | {name: value for name, value in more.items() if value}


class NotFound(DomainError):
    """The named resource does not exist for this caller."""

    code = "NOT_FOUND"

    def __init__(self, resource_name: str, remedy: str = "") -> None:
        super().__init__(_sentence(f"{resource_name} does not exist", remedy))
        self.resource_name, self.remedy = resource_name, remedy

    def _fields(self) -> dict[str, Any]:
        return {"resource_name": self.resource_name, "remedy": self.remedy}


class AlreadyExists(DomainError):
    """The named resource exists and differs from the request."""

    code = "ALREADY_EXISTS"

    def __init__(self, resource_name: str, remedy: str = "") -> None:
        super().__init__(_sentence(f"{resource_name} already exists", remedy))
        self.resource_name, self.remedy = resource_name, remedy

    def _fields(self) -> dict[str, Any]:
        return {"resource_name": self.resource_name, "remedy": self.remedy}


class FailedPrecondition(DomainError):
    """The request is well formed, but the state of ``subject`` forbids it."""

    code = "FAILED_PRECONDITION"

    def __init__(self, subject: str, problem: str, remedy: str = "") -> None:
        super().__init__(_sentence(f"{subject}: {problem}", remedy))
        self.subject, self.problem, self.remedy = subject, problem, remedy

    def _fields(self) -> dict[str, Any]:
        return {"subject": self.subject, "problem": self.problem, "remedy": self.remedy}


class ResourceExhausted(DomainError):
    """A limit or a full queue.

    ``retry_after_seconds`` 0 means that waiting does not help.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, problem: str, remedy: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(_sentence(problem, remedy))
        self.problem, self.remedy = problem, remedy
        self.retry_after_seconds = retry_after_seconds

    def _fields(self) -> dict[str, Any]:
        return {
            "problem": self.problem,
            "remedy": self.remedy,
            "retry_after_seconds": self.retry_after_seconds,
        }


class Unavailable(DomainError):
    """A needed part is away; the same request may be repeated."""

    code = "UNAVAILABLE"

    def __init__(self, problem: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(_sentence(problem, "try again"))
        self.problem, self.retry_after_seconds = problem, retry_after_seconds

    def _fields(self) -> dict[str, Any]:
        return {"problem": self.problem, "retry_after_seconds": self.retry_after_seconds}


class PermissionDenied(DomainError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"

    def __init__(self, problem: str) -> None:
        super().__init__(_sentence(problem, ""))
        self.problem = problem

    def _fields(self) -> dict[str, Any]:
        return {"problem": self.problem}


class Cancelled(DomainError):
    """The caller asked for it to stop."""

    code = "CANCELLED"

    def __init__(self, problem: str = "cancelled at the caller's request") -> None:
        super().__init__(problem)
        self.problem = problem

    def _fields(self) -> dict[str, Any]:
        return {"problem": self.problem}


class DataLoss(DomainError):
    """Stored bytes are missing or are not what their digest says."""

    code = "DATA_LOSS"

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(_sentence(problem, remedy))
        self.problem, self.remedy = problem, remedy

    def _fields(self) -> dict[str, Any]:
        return {"problem": self.problem, "remedy": self.remedy}


def check_one_of(field: str, value: Any, allowed: Collection[str]) -> None:
    """Refuse a value outside those that a request field may have.

    Raises:
        InvalidArgument: If it is none of them, listing them.
    """
    if value not in allowed:
        remedy = f"send one of {', '.join(allowed)}"
        raise InvalidArgument(field, f"is {shown(str(value))}", remedy)


def shown(text: str) -> str:
    """``text`` quoted, its end cut off if it is long."""
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _sentence(problem: str, remedy: str) -> str:
    return f"{problem}; {remedy}" if remedy else problem


_BY_NAME: dict[str, type[DomainError]] = {
    error.__name__: error
    for error in (
        DomainError,
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unavailable,
        PermissionDenied,
        Cancelled,
        DataLoss,
    )
}
