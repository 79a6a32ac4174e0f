"""What the extra of a connection may hold, on every connection type, and how it is read without showing its secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError

if TYPE_CHECKING:
    from airflow.sdk import Connection

_LOOKING_TIMEOUT: Final = 20.0  # seconds; a look that takes longer is made again, so it need not be waited for


def _json_object(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


JSONObject = Annotated[dict[str, object], BeforeValidator(_json_object)]
"""A text that holds a JSON object will do."""


class CommonExtra(BaseModel):
    """The extra of every connection type of this package; untouched form fields arrive as null or empty.

    :param model: Default model, for operators that build requests themselves.
    :param ca_bundle: PEM file, or folder of hashed certificates, to trust instead of the public authorities.
    :param proxy: URL of an HTTP proxy.
    :param connect_timeout: Seconds to wait for a connection.
    :param timeout: Seconds to wait for each read or write.
    :param listing_lag: Seconds by which the provider's list of batches may lag behind a creation.
    :param prices: A price table of one's own, which counts before the published prices.
    :param prices_file: Where such a table lies instead: path or URI of a JSON file.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model: str | None = None
    ca_bundle: str | None = None
    proxy: str | None = None
    connect_timeout: float = Field(default=10.0, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    listing_lag: float = Field(default=120.0, ge=0)
    prices: JSONObject | None = None
    prices_file: str | None = None

    def transport(self, *, looking: bool) -> TransportSettings:
        """How to reach the provider.

        :param looking: For a triggerer, which looks again by itself: one attempt, short time-outs.
        """
        settings = TransportSettings(
            ca_bundle=self.ca_bundle, proxy=self.proxy, connect_timeout=self.connect_timeout, timeout=self.timeout
        )
        if not looking:
            return settings
        return TransportSettings(
            ca_bundle=self.ca_bundle,
            proxy=self.proxy,
            connect_timeout=min(self.connect_timeout, _LOOKING_TIMEOUT),
            timeout=min(self.timeout, _LOOKING_TIMEOUT),
            max_attempts=1,
        )


Headers = Annotated[dict[str, str], BeforeValidator(_json_object)]
"""Headers to send with each call; a text that holds a JSON object will do."""

ConsoleUrl = Annotated[str, Field(pattern=r"^https?://.*\{batch_id\}")]
"""Where people look at a batch, ``{batch_id}`` in it."""

ExtraT = TypeVar("ExtraT", bound=CommonExtra)


def extra_of(connection: Connection, kind: type[ExtraT], *, prefix: str = "") -> ExtraT:
    """The extra of a connection, checked.

    :param prefix: What older releases of Airflow put before the names of a form's fields.
    :raises ConnectionSettingsError: A value is of the wrong kind; the message names the field and not the value.
    """
    given = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
    if prefix:
        given = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)} | given
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        # Without the values: an extra may hold secrets.
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False)
        )
    except json.JSONDecodeError:
        problems = "a field that is to hold a JSON object does not"
    raise ConnectionSettingsError(
        f"The extra of the connection {connection.conn_id!r} cannot be used ({problems}). Nothing was sent. Mend it "
        "under Admin, Connections."
    )


def base_url_of(connection: Connection) -> str | None:
    """The host field as a URL. Airflow splits a connection that is given as a URI into scheme, host and port."""
    host = (connection.host or "").strip().rstrip("/")
    if not host or "://" in host:
        return host or None
    port = f":{connection.port}" if connection.port else ""
    path = f"/{connection.schema.strip('/')}" if connection.schema else ""
    return f"https://{host}{port}{path}"
