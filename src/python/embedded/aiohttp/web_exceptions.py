"""HTTP answers that are raised: one class for each status, as plugins know them from aiohttp."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pserve_runtime.url import url

from aiohttp.web_response import Response


class HTTPException(Response, Exception):
    """An answer that can be raised or returned."""

    status_code = -1
    empty_body = False

    def __init__(
        self,
        *,
        headers: Any = None,
        reason: str | None = None,
        body: Any = None,
        text: str | None = None,
        content_type: str | None = None,
    ) -> None:
        Response.__init__(
            self,
            status=self.status_code,
            headers=headers,
            reason=reason,
            body=body,
            text=text,
            content_type=content_type,
        )
        Exception.__init__(self, self.reason)
        if self.body is None and not self.empty_body:
            self.text = f"{self.status}: {self.reason}"

    def __bool__(self) -> bool:
        return True


class HTTPError(HTTPException):
    """400 and above."""


class HTTPClientError(HTTPError):
    """400 to 499."""


class HTTPServerError(HTTPError):
    """500 and above."""


class HTTPRedirection(HTTPException):
    """300 to 399."""


class HTTPSuccessful(HTTPException):
    """200 to 299."""


class HTTPMove(HTTPRedirection):
    """A redirection that says where to."""

    def __init__(self, location: Any, **options: Any) -> None:
        if not location:
            raise ValueError("HTTP redirects need a location to redirect to.")
        if isinstance(location, (bool, int, float, bytes)):
            raise TypeError("Constructor parameter should be str")
        super().__init__(**options)
        self.headers["Location"] = quote(str(location), safe="%/:?#[]@!$&'()*+,;=~")
        self.location = location


class HTTPMethodNotAllowed(HTTPClientError):
    """405, with the methods that are."""

    status_code = 405

    def __init__(self, method: str, allowed_methods: Iterable[str], **options: Any) -> None:
        super().__init__(**options)
        self.allowed_methods = set(allowed_methods)
        self.headers["Allow"] = ",".join(sorted(self.allowed_methods))
        self.method = method.upper()


class HTTPRequestEntityTooLarge(HTTPClientError):
    """413, with the size that was too much."""

    status_code = 413

    def __init__(self, max_size: float, actual_size: float = 0, **options: Any) -> None:
        options.setdefault("text", f"Maximum request body size {max_size} exceeded.")
        super().__init__(**options)


class HTTPUnavailableForLegalReasons(HTTPClientError):
    """451, with a link to whoever demands it (RFC 7725)."""

    status_code = 451

    def __init__(self, link: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.link = url(str(link)) if link else None
        if self.link:
            self.headers["Link"] = f'<{self.link}>; rel="blocked-by"'


_EMPTY = {204, 205, 304}

_PLAIN: dict[type[HTTPException], dict[str, int]] = {
    HTTPSuccessful: {
        "HTTPOk": 200,
        "HTTPCreated": 201,
        "HTTPAccepted": 202,
        "HTTPNonAuthoritativeInformation": 203,
        "HTTPNoContent": 204,
        "HTTPResetContent": 205,
        "HTTPPartialContent": 206,
    },
    HTTPMove: {
        "HTTPMultipleChoices": 300,
        "HTTPMovedPermanently": 301,
        "HTTPFound": 302,
        "HTTPSeeOther": 303,
        "HTTPUseProxy": 305,
        "HTTPTemporaryRedirect": 307,
        "HTTPPermanentRedirect": 308,
    },
    HTTPRedirection: {"HTTPNotModified": 304},
    HTTPClientError: {
        "HTTPBadRequest": 400,
        "HTTPUnauthorized": 401,
        "HTTPPaymentRequired": 402,
        "HTTPForbidden": 403,
        "HTTPNotFound": 404,
        "HTTPNotAcceptable": 406,
        "HTTPProxyAuthenticationRequired": 407,
        "HTTPRequestTimeout": 408,
        "HTTPConflict": 409,
        "HTTPGone": 410,
        "HTTPLengthRequired": 411,
        "HTTPPreconditionFailed": 412,
        "HTTPRequestURITooLong": 414,
        "HTTPUnsupportedMediaType": 415,
        "HTTPRequestRangeNotSatisfiable": 416,
        "HTTPExpectationFailed": 417,
        "HTTPMisdirectedRequest": 421,
        "HTTPUnprocessableEntity": 422,
        "HTTPFailedDependency": 424,
        "HTTPUpgradeRequired": 426,
        "HTTPPreconditionRequired": 428,
        "HTTPTooManyRequests": 429,
        "HTTPRequestHeaderFieldsTooLarge": 431,
    },
    HTTPServerError: {
        "HTTPInternalServerError": 500,
        "HTTPNotImplemented": 501,
        "HTTPBadGateway": 502,
        "HTTPServiceUnavailable": 503,
        "HTTPGatewayTimeout": 504,
        "HTTPVersionNotSupported": 505,
        "HTTPVariantAlsoNegotiates": 506,
        "HTTPInsufficientStorage": 507,
        "HTTPNotExtended": 510,
        "HTTPNetworkAuthenticationRequired": 511,
    },
}

for _base, _classes in _PLAIN.items():
    for _name, _status in _classes.items():
        _members = {"status_code": _status, "empty_body": _status in _EMPTY, "__module__": __name__}
        globals()[_name] = type(_name, (_base,), _members)

__all__ = sorted(name for name in globals() if name.startswith("HTTP"))
