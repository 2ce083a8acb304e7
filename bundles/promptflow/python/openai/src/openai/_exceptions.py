"""What goes wrong: with a client's settings, on the way, or as the service says."""

import json


class OpenAIError(Exception):
    """The base of them all."""


class NotOffered(OpenAIError, AttributeError):
    """A part of OpenAI's package that this one has not."""

    def __init__(self, name):
        super().__init__(
            f"{name} is not in this package `openai`, flowcell's own in pure Python: it has chat.completions.create, "
            "completions.create, embeddings.create and models.list, with and without async. "
            "Any other endpoint can be asked by client.post(path, cast_to=object, body={...}) or client.get(path, cast_to=object)."
        )


class APIError(OpenAIError):
    """A request that failed. `body` is the error object of the answer, or its text, or None without an answer."""

    def __init__(self, message, request, *, body):
        super().__init__(message)
        self.message, self.request, self.body = message, request, body
        fields = body if isinstance(body, dict) else {}
        self.code, self.param, self.type = (fields.get(name) for name in ("code", "param", "type"))

    def __reduce__(self):
        # Their constructors take what `args` has not.
        return _again, (type(self), self.args, vars(self))


def _again(kind, args, state):
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class APIResponseValidationError(APIError):
    """An answer that is not what the API gives."""

    def __init__(self, response, body, *, message=None):
        super().__init__(message or "The answer is not the JSON that this API gives.", response.request, body=body)
        self.response, self.status_code = response, response.status_code


class APIStatusError(APIError):
    """An answer with a status that says no."""

    def __init__(self, message, *, response, body):
        super().__init__(message, response.request, body=body)
        self.response, self.status_code = response, response.status_code
        self.request_id = response.headers.get("x-request-id")


class APIConnectionError(APIError):
    """No answer, or half of one. The cause says why."""

    def __init__(self, *, message="Connection error.", request):
        super().__init__(message, request, body=None)


class APITimeoutError(APIConnectionError):
    """No answer in time."""

    def __init__(self, request):
        super().__init__(message="Request timed out.", request=request)


class BadRequestError(APIStatusError):
    status_code = 400


class AuthenticationError(APIStatusError):
    status_code = 401


class PermissionDeniedError(APIStatusError):
    status_code = 403


class NotFoundError(APIStatusError):
    status_code = 404


class ConflictError(APIStatusError):
    status_code = 409


class UnprocessableEntityError(APIStatusError):
    status_code = 422


class RateLimitError(APIStatusError):
    status_code = 429


class InternalServerError(APIStatusError):
    """500 and above."""


class LengthFinishReasonError(OpenAIError):
    """An answer that ended at its limit of tokens where all of it was needed."""

    def __init__(self, *, completion):
        super().__init__(f"the answer ended at its limit of tokens: {getattr(completion, 'usage', None)}")
        self.completion = completion


class ContentFilterFinishReasonError(OpenAIError):
    """An answer that a content filter ended where all of it was needed."""

    def __init__(self):
        super().__init__("a content filter ended the answer")


_BY_STATUS = {
    kind.status_code: kind
    for kind in (
        BadRequestError, AuthenticationError, PermissionDeniedError, NotFoundError, ConflictError,
        UnprocessableEntityError, RateLimitError,
    )
}  # fmt: skip


def status_error(response):
    """The exception for an answer that says no."""
    status, text = response.status_code, response.text.strip()
    try:
        body = json.loads(text)
        message = f"Error code: {status} - {body}"
    except (ValueError, RecursionError):
        body, message = text, text or f"Error code: {status}"
    if isinstance(body, dict):
        body = body.get("error", body)
    kind = _BY_STATUS.get(status) or (InternalServerError if status >= 500 else APIStatusError)
    return kind(message, response=response, body=body)


def sent_error(request, data):
    """The exception for an error that came in the middle of a stream."""
    error = data["error"]
    message = error.get("message") if isinstance(error, dict) else None
    if not (message and isinstance(message, str)):
        message = "An error occurred during streaming"
    return APIError(message, request, body=error)
