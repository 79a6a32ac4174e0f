"""How the server refuses a call: ``{"error": {"message", "type", "param", "code"}}``, in OpenAI's codes and words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request
    from pydantic_core import ErrorDetails

# pydantic's word for a bound, and OpenAI's code and words for it.
_BOUNDS: Final = {
    "greater_than_equal": ("integer_below_min_value", "below minimum value. Expected a value >= {ge}"),
    "less_than_equal": ("integer_above_max_value", "above maximum value. Expected a value <= {le}"),
}


class ApiError(Exception):
    """An answer that refuses a call, in OpenAI's shape."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.param = param
        self.headers = headers


def missing(param: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def error_response(error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)


def add_error_bodies(app: FastAPI) -> None:
    """Make every refusal of the application one of OpenAI's, those of the framework included."""

    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        message, code = {
            404: (f"Invalid URL ({where})", "unknown_url"),
            405: (f"Not allowed to {where.replace(' ', ' on ', 1)}.", "method_not_supported"),
        }.get(error.status_code, (str(error.detail), None))
        return error_response(ApiError(error.status_code, message, code=code, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_refusal_of(error.errors()[0]))

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        return error_response(
            ApiError(500, "The server had an error while processing your request; its log says which.")
        )


def _refusal_of(first: ErrorDetails) -> ApiError:
    if first["type"] == "json_invalid":
        return ApiError(400, "We could not parse the JSON body of your request.")
    param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "value_error":
        return ApiError(400, str(first["ctx"]["error"]), param=param or None)
    if not param:
        return ApiError(400, "The body of your request must be a JSON object.")
    if first["type"] == "missing":
        return missing(param)
    if first["type"] in _BOUNDS:
        code, words = _BOUNDS[first["type"]]
        bound = words.format(**first.get("ctx", {}))
        return ApiError(
            400, f"Invalid '{param}': integer {bound}, but got {first['input']} instead.", code=code, param=param
        )
    return ApiError(400, f"Invalid '{param}': {first['msg']}.", code="invalid_value", param=param)
