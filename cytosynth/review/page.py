"""Web page of a review, one cell at a time.

Every answer is kept at once.

The browser learns random cell ids, pixels, the classes to choose from and its own reviewer's
answers; never what a cell is.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cytosynth.client.errors import CytosynthError
from cytosynth.review.answers import (
    CALLS,
    MAX_NAME_LENGTH,
    NO_CLASS,
    QUALITIES,
    Answers,
    clean_reviewer,
    read_answer,
)
from cytosynth.review.mix import Mix

MAX_BODY_BYTES = 4096
TEMPLATES = Path(__file__).with_name("templates")
_REMEDIES = {
    HTTPStatus.NOT_FOUND: "open / and enter your pseudonym",
    HTTPStatus.METHOD_NOT_ALLOWED: "open / in a browser",
    HTTPStatus.FORBIDDEN: "answer on the page of this review itself",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"send at most {MAX_BODY_BYTES} bytes",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "send JSON with Content-Type: application/json",
}


def review_app(
    mix: Mix, shown: dict[str, bytes], answers: Answers, allowed_hosts: Sequence[str]
) -> Starlette:
    """The web application of one review.

    Args:
        mix: The cells and the truth, which stays here.
        shown: PNG by cell id.
        answers: Where answers are kept.
        allowed_hosts: Names and addresses by which browsers may call it. A page of another name
            that resolves to this machine (DNS rebinding) is refused.
    """
    routes = _Routes(mix, shown, answers)
    return Starlette(
        routes=[
            Route("/", routes.enter),
            Route("/label", routes.label),
            Route("/icon.svg", _icon),
            Route("/cells/{cell}.png", routes.cell),
            Route("/api/answers", routes.get_answers, methods=["GET"]),
            Route("/api/answers", routes.post_answer, methods=["POST"]),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts, www_redirect=False)
        ],
        exception_handlers={
            HTTPException: _http_error,
            CytosynthError: _bad_input,
            sqlite3.Error: _not_kept,
        },
    )


class _Routes:
    def __init__(self, mix: Mix, shown: dict[str, bytes], answers: Answers) -> None:
        self._mix = mix
        self._shown = shown
        self._answers = answers
        self._cells = {cell.id for cell in mix.cells}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )

    def enter(self, request: Request) -> Response:
        """Who are you, and what is to be done."""
        return self._page("enter.html.j2", problem="", reviewer="")

    def label(self, request: Request) -> Response:
        """The page on which one reviewer labels cells, or the entry page."""
        given = request.query_params.get("reviewer", "")
        try:
            reviewer = clean_reviewer(given)
        except CytosynthError as error:
            text = f"The name {error.message.removeprefix('reviewer: ')}: {error.remedy}."
            shortened = given[:MAX_NAME_LENGTH]
            return self._page("enter.html.j2", HTTPStatus.BAD_REQUEST, problem=text,
                              reviewer=shortened)  # fmt: skip
        return self._page("label.html.j2", reviewer=reviewer, calls=CALLS, qualities=QUALITIES,
                          no_class=NO_CLASS)  # fmt: skip

    def cell(self, request: Request) -> Response:
        """The pixels of one cell."""
        data = self._shown.get(request.path_params["cell"])
        if data is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "cell: no cell of this review has this id")
        # Cells of patients are not left in the cache of a reviewer's browser.
        return Response(data, media_type="image/png", headers=_NOT_STORED)

    def get_answers(self, request: Request) -> Response:
        """A reviewer's order of cells, and his or her answers so far."""
        reviewer = clean_reviewer(request.query_params.get("reviewer", ""))
        given = {
            cell: {"call": answer.call, "class_id": answer.class_id, "quality": answer.quality}
            for cell, answer in self._answers.of(reviewer).items()
        }
        return _json({"cells": self._mix.order(reviewer), "answers": given})

    async def post_answer(self, request: Request) -> Response:
        """Keep one answer; it is on disk when this returns."""
        _check_same_origin(request)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type: is not application/json"
            )
        answer = read_answer(await _json_body(request), self._cells, self._mix.class_ids)
        await run_in_threadpool(self._answers.keep, answer)
        return _json({"kept": answer.cell})

    def _page(self, name: str, status: int = HTTPStatus.OK, **values: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = self._templates.get_template(name).render(
            nonce=nonce,
            class_ids=self._mix.class_ids,
            num_cells=len(self._mix.cells),
            max_name_length=MAX_NAME_LENGTH,
            **values,
        )
        policy = (
            "default-src 'none'; img-src 'self'; connect-src 'self'; form-action 'self'; "
            f"base-uri 'none'; frame-ancestors 'none'; "
            f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        )
        headers = {"Content-Security-Policy": policy, **_NOT_STORED}
        return HTMLResponse(html, status, headers)


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<circle cx="16" cy="16" r="15" fill="#c9b6ec"/>'
    '<path d="M9 9a7 7 0 0 1 9 1 6 6 0 0 1 5 9 7 7 0 0 1-12 3A8 8 0 0 1 9 9z" fill="#5b3a9e"/>'
    "</svg>"
)
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_NOT_STORED = {"Cache-Control": "no-store", **_SAFE}


def _icon(request: Request) -> Response:
    return Response(_ICON, media_type="image/svg+xml", headers=_SAFE)


def _check_same_origin(request: Request) -> None:
    """Refuse what another site's page sends.

    Programs that are no browser send neither of the two headers.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if (origin is not None and origin != own) or site not in ("same-origin", "none"):
        raise HTTPException(HTTPStatus.FORBIDDEN, "Origin: is another site")


async def _json_body(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: has more than {MAX_BODY_BYTES} bytes"
            )
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "body: is not JSON") from None


def _json(content: object, status: int = HTTPStatus.OK) -> Response:
    return JSONResponse(content, status, _NOT_STORED)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    remedy = _REMEDIES.get(status, "send the fields as the page does")
    field = error.detail.partition(": ")[0] if ": " in error.detail else ""
    return _json({"error": {"field": field, "message": error.detail, "remedy": remedy}}, status)


def _bad_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, CytosynthError)
    found = [violation.field for violation in error.field_violations]
    body = {"field": found[0] if found else "", "message": error.message, "remedy": error.remedy}
    return _json({"error": body}, HTTPStatus.BAD_REQUEST)


def _not_kept(request: Request, error: Exception) -> Response:
    remedy = "see that the disk of the server has room and the folder of the review can be written"
    body = {"field": "", "message": f"the answers cannot be used ({error})", "remedy": remedy}
    return _json({"error": body}, HTTPStatus.SERVICE_UNAVAILABLE)
