"""Who signs: each way that Airflow's Google users know, against token endpoints that check what they are shown."""

from __future__ import annotations

import base64
import json
import logging
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from google.auth.compute_engine import _metadata
from google.auth.transport.requests import AuthorizedSession
from support.fault_proxy import Answer, fault_proxy

from airflow_provider_llmbatch.adapters.http import Call, HttpClient, TransportSettings
from airflow_provider_llmbatch.adapters.vertex.credentials import GoogleAuthorization, Identity, accounts_of
from airflow_provider_llmbatch.errors import AccessRefusedError, ConnectionSettingsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme
    from support.google_tokens import GoogleTokens

READER = "reader@my-project.iam.gserviceaccount.com"
BRIDGE = "bridge@other-project.iam.gserviceaccount.com"
WRITER = "writer@third-project.iam.gserviceaccount.com"


def signed(identity: Identity, transport: TransportSettings | None = None) -> GoogleAuthorization:
    return GoogleAuthorization(identity, transport or TransportSettings(connect_timeout=2, timeout=5))


def owner_of(google: GoogleTokens, authorization: GoogleAuthorization) -> str:
    """Whose token the next attempt carries."""
    headers = dict(authorization.headers())
    token = headers.pop("Authorization").removeprefix("Bearer ")
    assert headers == {}
    return google.issued[token]


def error_of(do: Callable[[], object]) -> Any:
    with pytest.raises((AccessRefusedError, ConnectionSettingsError, UnavailableError)) as caught:
        do()
    return caught.value


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth waits a second and more between its own attempts."""
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)


@pytest.fixture
def through_the_proxy(google: GoogleTokens, authority: trustme.CA, tmp_path: Path) -> TransportSettings:
    """The way to every host of Google's, played by ``google``."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return TransportSettings(ca_bundle=str(bundle), proxy=google.url, connect_timeout=2, timeout=5)


def test_the_key_of_a_service_account_signs_as_text_and_as_a_file(google: GoogleTokens, tmp_path: Path) -> None:
    key = json.dumps(google.new_key(READER))
    (tmp_path / "key.json").write_text(key)
    for identity in (Identity(key_json=key), Identity(key_path=str(tmp_path / "key.json"))):
        authorization = signed(identity)
        assert owner_of(google, authorization) == READER
        assert authorization.project == "my-project"
    assert len(google.issued) == 2


def test_a_key_whose_line_ends_are_written_out_signs_too(google: GoogleTokens) -> None:
    key = google.new_key(READER)
    key["private_key"] = key["private_key"].replace("\n", "\\n")
    assert owner_of(google, signed(Identity(key_json=json.dumps(key)))) == READER


def test_a_token_is_for_the_whole_of_google_cloud_unless_the_connection_names_scopes(google: GoogleTokens) -> None:
    scopes = []
    for identity in (Identity(), Identity(scopes=("scope-a", "scope-b"))):
        key = json.dumps(google.new_key(READER))
        signed(Identity(key_json=key, scopes=identity.scopes)).headers()
        claims = google.requests[-1].asked["assertion"].split(".")[1]
        scopes.append(json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"])
    assert scopes == ["https://www.googleapis.com/auth/cloud-platform", "scope-a scope-b"]


def test_without_a_key_the_file_that_the_environment_names_signs(
    google: GoogleTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account in (READER, WRITER):
        path = tmp_path / f"{account}.json"
        path.write_text(json.dumps(google.new_key(account)))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        assert owner_of(google, signed(Identity())) == account
    assert signed(Identity()).project == "my-project"


def test_a_user_who_logged_in_with_gcloud_signs(
    google: GoogleTokens, through_the_proxy: TransportSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "application_default_credentials.json").write_text(
        json.dumps({**google.new_user("ann"), "quota_project_id": "ann-pays"})
    )
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "ann-project")
    authorization = signed(Identity(), through_the_proxy)
    headers = dict(authorization.headers())
    assert headers == {"Authorization": "Bearer test-token-1", "x-goog-user-project": "ann-pays"}
    assert (google.issued, authorization.project) == ({"test-token-1": "ann"}, "ann-project")


def test_the_account_attached_to_the_machine_signs_and_is_asked_past_the_proxy(
    google: GoogleTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    google.attached = WRITER
    host = google.url.removeprefix("http://")
    for name, value in (("GCE_METADATA_HOST", host), ("GCE_METADATA_IP", host)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
    monkeypatch.delenv("NO_GCE_CHECK")
    authorization = signed(Identity(), TransportSettings(proxy="http://127.0.0.1:9", connect_timeout=2, timeout=5))
    assert (owner_of(google, authorization), authorization.project) == (WRITER, "machine-project")


def test_a_federated_token_is_exchanged(google: GoogleTokens, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text(google.new_subject("cluster"))
    config = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{google.url}/token",
        "credential_source": {"file": str(tmp_path / "subject")},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for given in (json.dumps(config), str(tmp_path / "config.json")):
        assert owner_of(google, signed(Identity(config=given))) == "cluster"
    (tmp_path / "subject").write_text("token-of-nobody")
    refused = error_of(signed(Identity(config=json.dumps(config, indent=1))).headers)
    assert type(refused) is AccessRefusedError
    assert "invalid_grant: Bad Request. Nothing was sent" in str(refused)


def test_an_account_acts_as_another_through_a_chain(google: GoogleTokens, through_the_proxy: TransportSettings) -> None:
    google.acting = {READER: {BRIDGE}, BRIDGE: {WRITER}}
    key = json.dumps(google.new_key(READER, token_uri="https://oauth2.googleapis.com/token"))
    authorization = signed(Identity(key_json=key, impersonate=accounts_of(f"{BRIDGE}, {WRITER}")), through_the_proxy)
    assert owner_of(google, authorization) == WRITER
    assert authorization.project == "third-project"
    assert [(request.host, request.path) for request in google.requests] == [
        ("oauth2.googleapis.com", "/token"),
        ("iamcredentials.googleapis.com", f"/v1/projects/-/serviceAccounts/{WRITER}:generateAccessToken"),
    ]


def test_an_account_that_may_not_act_as_another_is_told_which_role_is_missing(
    google: GoogleTokens, through_the_proxy: TransportSettings
) -> None:
    google.acting = {READER: {BRIDGE}}
    key = json.dumps(google.new_key(READER, token_uri="https://oauth2.googleapis.com/token"))
    refused = error_of(signed(Identity(key_json=key, impersonate=(BRIDGE, WRITER)), through_the_proxy).headers)
    assert type(refused) is AccessRefusedError
    assert str(refused) == (
        f"Google gave no token to this connection's key, acting as {WRITER}: Unable to acquire impersonated "
        "credentials: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist). "
        "Nothing was sent to Vertex AI or billed, and nothing was cancelled. A retry would be refused again: mend the "
        "key in the connection, such as one that was deleted or has been disabled, or give each account of the "
        "impersonation chain the role Service Account Token Creator (roles/iam.serviceAccountTokenCreator) on the "
        "account that it acts as."
    )


def test_airflows_impersonation_chain_is_read_in_each_of_its_forms() -> None:
    assert [accounts_of(chain) for chain in (None, "", WRITER, f"{BRIDGE},{WRITER}", [BRIDGE, WRITER])] == [
        (),
        (),
        (WRITER,),
        (BRIDGE, WRITER),
        (BRIDGE, WRITER),
    ]


def test_a_certificate_that_the_connection_does_not_trust_is_told(
    google: GoogleTokens, through_the_proxy: TransportSettings
) -> None:
    key = json.dumps(google.new_key(READER, token_uri="https://oauth2.googleapis.com/token"))
    distrusting = TransportSettings(proxy=through_the_proxy.proxy, connect_timeout=2, timeout=5)
    refused = error_of(signed(Identity(key_json=key), distrusting).headers)
    assert type(refused) is ConnectionSettingsError
    assert "Set the connection's CA bundle to the authority that signed it." in str(refused)


def test_an_emulator_gets_no_token() -> None:
    authorization = signed(Identity(anonymous=True))
    assert (dict(authorization.headers()), authorization.project) == ({}, None)
    assert type(authorization.credentials).__name__ == "AnonymousCredentials"


def test_a_thousand_waits_share_a_token_that_is_renewed_five_minutes_before_it_ends(google: GoogleTokens) -> None:
    identity = Identity(key_json=json.dumps(google.new_key(READER)))
    authorizations = [signed(identity) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: authorizations[n % 4].headers()["Authorization"], range(16)))
    assert set(found) == {"Bearer test-token-1"}
    now = time.time()
    for seconds, token in ((3290, 1), (3310, 2)):
        late = GoogleAuthorization(identity, TransportSettings(), clock=lambda at=now + seconds: at)
        assert late.headers()["Authorization"] == f"Bearer test-token-{token}"


def test_a_token_that_was_not_accepted_is_not_used_again(google: GoogleTokens) -> None:
    authorization = signed(Identity(key_json=json.dumps(google.new_key(READER))))
    first = authorization.headers()
    authorization.refused()
    assert [first["Authorization"], authorization.headers()["Authorization"]] == [
        "Bearer test-token-1",
        "Bearer test-token-2",
    ]


def test_a_key_file_that_was_replaced_counts_from_the_next_renewal_on(google: GoogleTokens, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(google.new_key(READER)))
    authorization = signed(Identity(key_path=str(path)))
    assert owner_of(google, authorization) == READER
    path.write_text(json.dumps(google.new_key(WRITER)))
    authorization.refused()
    assert owner_of(google, authorization) == WRITER


def test_googles_own_clients_use_the_same_token_and_get_another_when_it_is_not_accepted(google: GoogleTokens) -> None:
    authorization = signed(Identity(key_json=json.dumps(google.new_key(READER)), quota_project="pays"))
    authorization.headers()
    with fault_proxy() as api:
        api.rule("GET", "/thing", Answer(401, b"{}"))
        api.rule("GET", "/thing", Answer(200, b"{}"))
        with AuthorizedSession(authorization.credentials) as session:
            assert session.get(f"{api.url}/thing", timeout=5).status_code == 200
    sent = [(call.headers["authorization"], call.headers["x-goog-user-project"]) for call in api.requests]
    assert sent == [("Bearer test-token-1", "pays"), ("Bearer test-token-2", "pays")]


def test_a_key_that_was_deleted_is_told_and_a_retry_would_not_help(google: GoogleTokens) -> None:
    key = google.new_key(READER)
    google.forget_key(READER)
    refused = error_of(signed(Identity(key_json=json.dumps(key))).headers)
    assert type(refused) is AccessRefusedError
    assert str(refused) == (
        "Google gave no token to this connection's key: invalid_grant: Invalid grant: account not found. Nothing was "
        "sent to Vertex AI or billed, and nothing was cancelled. A retry would be refused again: mend the key in the "
        "connection, such as one that was deleted or has been disabled."
    )


def test_a_key_that_belongs_to_another_account_is_refused(google: GoogleTokens) -> None:
    stolen = {**google.new_key(WRITER), "client_email": READER}
    google.new_key(READER)
    refused = error_of(signed(Identity(key_json=json.dumps(stolen))).headers)
    assert "invalid_grant: Invalid JWT Signature" in str(refused)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_outage_of_the_token_endpoint_is_no_refusal(google: GoogleTokens, status: int) -> None:
    with fault_proxy(google.url) as proxy:
        key = json.dumps(google.new_key(READER, token_uri=f"{proxy.url}/token"))
        proxy.rule("POST", "/token", Answer(status, b'{"error": "backend"}'), times=None)
        down = error_of(signed(Identity(key_json=key)).headers)
    assert (type(down), down.reached) == (UnavailableError, False)
    assert "That is an outage of what gives tokens, or of the way to it. Nothing was sent to Vertex AI" in str(down)
    assert google.requests == []


def test_a_token_endpoint_that_nobody_answers_at_is_an_outage_which_an_old_token_bears(google: GoogleTokens) -> None:
    with fault_proxy(google.url) as proxy:
        identity = Identity(key_json=json.dumps(google.new_key(READER, token_uri=f"{proxy.url}/token")))
        now = time.time()
        first = signed(identity).headers()
    for seconds, borne in ((3590, True), (3610, False)):
        late = GoogleAuthorization(identity, TransportSettings(), clock=lambda at=now + seconds: at)
        if borne:
            assert late.headers() == first
    down = error_of(late.headers)
    assert (type(down), down.reached) == (UnavailableError, False)
    assert "127.0.0.1 did not answer (ConnectError: " in str(down)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("{not json", "it is not a JSON object"),
        ("{}", "its type is 'None', and not one of service_account, authorized_user, external_account"),
        ('{"type": "service_account"}', "Service account info was not in the expected format, missing fields "),
        ('{"type": "authorized_user"}', "Authorized user info was not in the expected format, missing fields "),
    ],
)
def test_a_key_that_is_none_is_told_without_being_quoted(key: str, problem: str) -> None:
    refused = error_of(signed(Identity(key_json=key)).headers)
    assert type(refused) is ConnectionSettingsError
    assert str(refused).startswith(f"This connection's key cannot be used: {problem}")
    assert "Nothing was sent or billed, and nothing was cancelled. Mend the connection" in str(refused)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.json"
    refused = error_of(signed(Identity(key_path=str(path))).headers)
    assert str(refused).startswith(
        f"This connection's key file {path} cannot be used: No such file or directory. Nothing was sent or billed"
    )


def test_no_key_anywhere_says_what_to_give() -> None:
    refused = error_of(signed(Identity()).headers)
    assert type(refused) is ConnectionSettingsError
    assert "application default credentials count, and there are none to be had" in str(refused)
    assert "set GOOGLE_APPLICATION_CREDENTIALS where the workers and the triggerer run" in str(refused)


def test_two_ways_to_sign_contradict_each_other() -> None:
    refused = error_of(lambda: signed(Identity(key_path="/key.json", anonymous=True)))
    assert str(refused) == (
        "This connection says in several ways who calls (key_path, anonymous): leave one. Nothing was sent."
    )


def test_neither_key_nor_token_stands_in_a_message_a_repr_or_a_log(
    google: GoogleTokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = google.new_key(READER)
    body = good["private_key"].splitlines()[5]
    broken = {**good, "private_key": good["private_key"].replace(body, body[:-4] + "!!!!")}
    path = tmp_path / "key.json"
    path.write_text(json.dumps(broken))
    identities = [Identity(key_json=json.dumps(broken)), Identity(key_path=str(path))]
    errors = [error_of(signed(identity).headers) for identity in identities]
    with fault_proxy(google.url) as proxy:
        # A gateway that quotes what it was sent.
        echo = signed(Identity(key_json=json.dumps({**good, "token_uri": f"{proxy.url}/token"})))
        proxy.rule("POST", "/token", Answer(400, b"", {}), times=None)
        errors.append(error_of(echo.headers))
    written = [f"{error} {vars(error)}" + "".join(traceback.format_exception(error)) for error in errors]
    shown = "\n".join([*written, caplog.text, repr(identities), str(identities[0])])
    secrets = [line for line in good["private_key"].splitlines() if "-----" not in line]
    assert [secret for secret in (*secrets, body[:-4]) if secret in shown] == []


def test_what_the_endpoint_quotes_of_the_assertion_is_not_passed_on(google: GoogleTokens) -> None:
    google._signer_of = lambda assertion: (None, f"I do not like {assertion}")  # type: ignore[method-assign]
    refused = error_of(signed(Identity(key_json=json.dumps(google.new_key(READER)))).headers)
    assert "invalid_grant: I do not like ***. Nothing was sent" in str(refused)


def test_the_api_may_quote_the_token_and_the_quota_project_of_which_only_one_is_secret(google: GoogleTokens) -> None:
    authorization = signed(Identity(key_json=json.dumps(google.new_key(READER)), quota_project="pays-for-it"))
    with fault_proxy() as api:
        api.rule("GET", "/", Answer(403, b'{"error": {"message": "test-token-1 may not use pays-for-it"}}'))
        client = HttpClient(
            api.url, title="Vertex AI", headers={}, settings=TransportSettings(), authorization=authorization
        )
        refused = error_of(lambda: client.send(Call("GET", "/", "look")))
        client.close()
    assert "403: *** may not use pays-for-it." in str(refused)


@pytest.mark.parametrize(
    ("identity", "remedy"),
    [
        (Identity(), "mend the application default credentials where the task runs, or give the connection a key"),
        (Identity(key_path="/k.json"), "mend the key file /k.json, such as one that was deleted or has been disabled"),
        (
            Identity(key_json="{}", impersonate=("a@p", "b@p")),
            (
                "mend the key in the connection, such as one that was deleted or has been disabled, or give each "
                "account of the impersonation chain the role Service Account Token Creator "
                "(roles/iam.serviceAccountTokenCreator) on the account that it acts as"
            ),
        ),
        (Identity(anonymous=True), "take is_anonymous out of the connection, which sends no token"),
    ],
)
def test_what_to_mend_when_google_accepts_no_token_is_what_the_connection_says(identity: Identity, remedy: str) -> None:
    assert signed(identity).remedy == remedy
