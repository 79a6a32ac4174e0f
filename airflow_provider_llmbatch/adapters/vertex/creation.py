"""The call that creates a job, through google-cloud-aiplatform's own client, which checks what is sent against the API.

That client takes seconds and a hundred megabytes to import, so it is imported when the first job is created and nowhere
else: a triggerer, which only looks, never pays for it. It is given nothing to decide. No repeats (``retry=None``; its
HTTP library repeats none either), no redirects; tokens, refusals and failures are those of ``adapters.http``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import httpx
from typing_extensions import override

from airflow_provider_llmbatch.adapters.http import Call
from airflow_provider_llmbatch.errors import ConnectionSettingsError, LLMBatchError, UnexpectedAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from google.auth.credentials import Credentials
    from google.cloud.aiplatform_v1 import JobServiceClient
    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.http import Authorization, HttpClient, TransportSettings

# The body arrives decoded, whatever these say of it.
_OF_THE_WIRE: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class JobCreation:
    """Creates jobs. Safe to use from several threads.

    :param api_url: Scheme, host and port of the API.
    :param http: Makes the headers, and words what goes wrong.
    """

    def __init__(
        self, api_url: str, http: HttpClient, authorization: Authorization | None, transport: TransportSettings
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._http = http
        self._authorization = authorization
        self._transport = transport

    def create(self, parent: str, body: dict[str, JsonValue], *, action: str) -> dict[str, JsonValue]:
        """Create a job, with one attempt that may reach the API; returns it as JSON.

        :param parent: The location, such as ``projects/p/locations/us-central1``.
        :param action: As in ``Call``.
        :raises UnavailableError: Its ``reached`` tells whether there may be a job now.
        :raises LLMBatchError: Any other one says that there is none.
        """
        _check_installed()
        call = Call("POST", f"{parent}/batchPredictionJobs", action, repeat=False)
        return self._http.until_answered(call, lambda: self._attempt(call, parent, body))

    def _attempt(self, call: Call, parent: str, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        from google.cloud.aiplatform_v1 import BatchPredictionJob  # noqa: PLC0415 - see above

        answers: list[requests.Response] = []
        client = self._client(call, answers)
        job = BatchPredictionJob.from_json(json.dumps(body), ignore_unknown_fields=False)
        try:
            created = client.create_batch_prediction_job(
                parent=parent, batch_prediction_job=job, retry=None, timeout=self._transport.timeout
            )
        except LLMBatchError:
            raise  # of the authorization: nothing was sent
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold a token, so it is not chained
            failure = error
        else:
            found: dict[str, JsonValue] = json.loads(
                BatchPredictionJob.to_json(
                    created, use_integers_for_enums=False, always_print_fields_with_no_presence=False
                )
            )
            return found
        finally:
            client.transport.close()  # type: ignore[no-untyped-call]
        raise self._error_of(call, failure, answers)

    def _client(self, call: Call, answers: list[requests.Response]) -> JobServiceClient:
        """One for each attempt: jobs are few, and it takes milliseconds once it is imported."""
        from google.cloud.aiplatform_v1 import JobServiceClient  # noqa: PLC0415 - see above
        from google.cloud.aiplatform_v1.services.job_service.transports.rest import (  # noqa: PLC0415 - as above
            JobServiceRestTransport,
        )

        def refresh() -> None:
            if self._authorization is not None:
                self._authorization.refused()

        credentials = _credentials(lambda: self._http.headers(call), refresh)
        transport = JobServiceRestTransport(host=self._api_url, credentials=credentials)
        session: requests.Session = transport._session  # noqa: SLF001 - there is no other way to lead it through a proxy
        _lead(session, self._api_url, self._transport)
        session.hooks["response"].append(lambda response, *_, **__: answers.append(response))
        return JobServiceClient(transport=transport)

    def _error_of(self, call: Call, failure: Exception, answers: list[requests.Response]) -> LLMBatchError:
        from requests.exceptions import RequestException, TooManyRedirects  # noqa: PLC0415 - see above

        broken_off = isinstance(failure, RequestException) and not isinstance(failure, TooManyRedirects)
        if not answers or broken_off:
            return self._http.unreachable(call, _as_httpx(failure))
        answer = answers[-1]
        try:
            self._http.check(call, _response_of(answer))
        except LLMBatchError as error:
            return error
        return UnexpectedAnswerError(
            f"{self._http.title} was asked to {call.action} and answered with {len(answer.content)} bytes that are no "
            "job of Vertex AI. A retry helps only if that is passing; else mend the connection's endpoint.",
            status_code=answer.status_code,
        )


def _check_installed() -> None:
    try:
        import google.cloud.aiplatform_v1  # noqa: F401, PLC0415 - see above
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConnectionSettingsError(
            "Batches on Vertex AI are created with the package google-cloud-aiplatform, which is not installed. "
            "Nothing was created or billed. Run pip install 'airflow-provider-llmbatch[vertex]' where the workers run."
        )


def _credentials(headers: Callable[[], dict[str, str]], refresh: Callable[[], None]) -> Credentials:
    """Google's client signs each attempt with what ``adapters.http`` would send."""
    from google.auth.credentials import Credentials  # noqa: PLC0415 - see above

    class Signed(Credentials):
        @override
        def before_request(self, _request: object, _method: str, _url: str, sent: dict[str, str]) -> None:
            sent.update(headers())

        @override
        def refresh(self, _request: object) -> None:
            refresh()  # after a 401, which created nothing

    return Signed()  # type: ignore[no-untyped-call]


def _lead(session: requests.Session, api_url: str, transport: TransportSettings) -> None:
    """Let Google's session go the way of this connection, and stop where it would decide something by itself."""
    from requests.utils import get_environ_proxies  # noqa: PLC0415 - see above

    session.max_redirects = 0  # a redirect makes another call
    # The environment's proxies count as elsewhere; its CA bundle and its .netrc would displace the connection's own.
    session.trust_env = False
    session.proxies = get_environ_proxies(api_url, no_proxy=None)
    if transport.proxy:
        session.proxies = {"http": transport.proxy, "https": transport.proxy}
    if transport.ca_bundle:
        session.verify = transport.ca_bundle


def _as_httpx(failure: Exception) -> httpx.TransportError:
    """A failure without an answer in httpx's words, which tell whether the call was sent."""
    from requests.exceptions import ConnectTimeout, ProxyError, SSLError  # noqa: PLC0415 - see above
    from urllib3.exceptions import MaxRetryError, NewConnectionError  # noqa: PLC0415 - as above

    text = f"{type(failure).__name__}: {failure}"
    cause: Any = failure.args[0] if failure.args else None
    never_connected = isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)
    if isinstance(failure, ProxyError):
        return httpx.ProxyError(text)
    untrusted = isinstance(failure, SSLError) and "CERTIFICATE_VERIFY_FAILED" in text
    if never_connected or untrusted or isinstance(failure, ConnectTimeout):
        return httpx.ConnectError(text)
    return httpx.ReadError(text)


def _response_of(answer: requests.Response) -> httpx.Response:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_THE_WIRE}
    return httpx.Response(answer.status_code, headers=headers, content=answer.content)
