"""What goes over the wire: OpenAI's errors, a request's fields as their own bytes, SSE frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from coterie.errors import CoterieError

Fields: TypeAlias = dict[str, msgspec.Raw]  # a JSON object, every value as it was sent
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"

_fields = msgspec.json.Decoder(Fields)
_encode = msgspec.json.Encoder().encode


class ApiError(CoterieError):
    """What a client is told instead of an answer, in OpenAI's shape.

    ``headers`` go out with it (``Retry-After``, rate limits).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Headers = (),
    ) -> None:
        self.status, self.message, self.type = status, message, type
        self.code, self.param, self.headers = code, param, headers
        super().__init__(message)

    def body(self) -> bytes:
        """The response's body; inside a stream the data of its last event."""
        told = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return _encode({"error": told})


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def not_found(model: str) -> ApiError:
    """404: no such model."""
    message = f"The model {model!r} does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found", param="model")


def overloaded(message: str, seconds: float = 1.0) -> ApiError:
    """503 with ``Retry-After``: not now."""
    after = (b"retry-after", str(max(1, round(seconds))).encode())
    return ApiError(503, message, type="server_error", code="overloaded", headers=[after])


def decode_fields(body: bytes) -> Fields:
    """The top level of a JSON object; raises ApiError 400 for anything else."""
    try:
        if not body.isascii():
            body.decode()  # values are not looked into, and experts get them as they came
        return _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"We could not parse the JSON body of your request: {error}") from None


def encode_fields(fields: Fields) -> bytes:
    """The inverse of ``decode_fields``: every value byte for byte, in the same order."""
    return _encode(fields)


def raw(value: Any) -> msgspec.Raw:
    """A value of ours among the client's."""
    return msgspec.Raw(_encode(value))


def value_of(fields: Fields, name: str) -> Any:
    """The value of a field, None without it; raises ApiError 400 where it is none we can hold."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"{name}: {error}", name) from None


def frame(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"
