"""The refusal of an image file."""

from __future__ import annotations


class UnreadableImageError(Exception):
    """An image file is refused.

    Attributes:
        problem: What is wrong with the file, as the predicate of a sentence about it.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy
