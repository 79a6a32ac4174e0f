"""How Google's services refuse a call: ``{"error": {"code", "message", "status"}}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

# HTTP status -> the name and the number of Google's code for it (google.rpc.Code).
CODES: Final = {
    400: ("INVALID_ARGUMENT", 3),
    401: ("UNAUTHENTICATED", 16),
    403: ("PERMISSION_DENIED", 7),
    404: ("NOT_FOUND", 5),
    409: ("ABORTED", 10),
    429: ("RESOURCE_EXHAUSTED", 8),
    499: ("CANCELLED", 1),
    500: ("INTERNAL", 13),
    501: ("UNIMPLEMENTED", 12),
    503: ("UNAVAILABLE", 14),
    504: ("DEADLINE_EXCEEDED", 4),
}
_UNKNOWN: Final = ("UNKNOWN", 2)


class GoogleError(Exception):
    """An answer that refuses a call. ``status`` is Google's name for the reason, by default that of the HTTP status."""

    def __init__(self, status_code: int, message: str, *, status: str | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.status = status or code_of(status_code)[0]

    def body(self) -> dict[str, object]:
        return {"error": {"code": self.status_code, "message": str(self), "status": self.status}}


def code_of(status_code: int) -> tuple[str, int]:
    """Name and number of Google's code for an HTTP status."""
    found = CODES.get(status_code)
    if found is None and 400 <= status_code < 500:
        return "FAILED_PRECONDITION", 9
    return found or _UNKNOWN


def wrong_field(field: str, message: str) -> GoogleError:
    """In the words of Vertex AI's own validation."""
    return GoogleError(400, f"List of found errors:\t1.Field: {field}; Message: {message}\t")


def refused(error: GoogleError) -> JSONResponse:
    return JSONResponse(error.body(), error.status_code)


def add_error_bodies(app: FastAPI) -> None:
    """Make every refusal of the application one of Google's, those of the framework included."""

    @app.exception_handler(GoogleError)
    async def refuse(_request: Request, error: GoogleError) -> JSONResponse:
        return refused(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        found = f"The requested URL {request.url.path} was not found on this server."
        words = {404: found, 405: f"{request.method} is not allowed on {request.url.path}."}
        return refused(GoogleError(error.status_code, words.get(error.status_code, str(error.detail))))

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refused(GoogleError(400, f"Invalid value at '{first['loc'][-1]}': {first['msg']}."))

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        return refused(GoogleError(500, "Internal error encountered; the server's log says which."))
