"""What Airflow reads about this package: its modules, its connection types, and the forms to fill them in.

Plain data that imports nothing of the package: every Airflow process reads it at start, before any hook is needed. How
the fields are read is in ``hooks/connections.py`` and ``hooks/settings.py``; a test holds both together.
"""

from __future__ import annotations

from typing import Final

_INTEGRATION: Final = "LLM Batch"
_PACKAGE: Final = "airflow_provider_llmbatch"

# Every field may stay empty, which arrives as null.
_TEXT: Final = {"type": ["string", "null"]}
_SECRET: Final = {"type": ["string", "null"], "format": "password"}
_SWITCH: Final = {"type": ["boolean", "null"]}
_JSON_OBJECT: Final = {"type": ["object", "null"]}


def _seconds(default: float) -> dict[str, object]:
    return {"type": ["number", "null"], "default": default}


_COMMON_FIELDS: Final = {
    "model": {
        "label": "Default model",
        "schema": _TEXT,
        "description": "For operators that build requests themselves and are given no model.",
    },
    "ca_bundle": {
        "label": "CA bundle",
        "schema": _TEXT,
        "description": "PEM file, or folder of hashed certificates, to trust instead of the public authorities.",
    },
    "proxy": {
        "label": "Proxy",
        "schema": _SECRET,  # a proxy's URL may carry a password
        "description": "URL of an HTTP proxy. Empty: the usual environment variables count.",
    },
    "connect_timeout": {
        "label": "Connect timeout",
        "schema": _seconds(10.0),
        "description": "Seconds to wait for a connection.",
    },
    "timeout": {
        "label": "Timeout",
        "schema": _seconds(60.0),
        "description": "Seconds to wait for each single read or write, not for a whole transfer.",
    },
    "listing_lag": {
        "label": "Listing lag",
        "schema": _seconds(120.0),
        "description": "Seconds by which the provider's list of batches may lag behind a creation.",
    },
    "prices": {
        "label": "Prices",
        "schema": _JSON_OBJECT,
        "description": "A JSON object with a price table of your own, which counts before published prices.",
    },
    "prices_file": {
        "label": "Price file",
        "schema": _TEXT,
        "description": "Path or URI of a JSON file with such a table, instead.",
    },
}
"""On the form of every connection type."""


def get_provider_info() -> dict[str, object]:
    """The entry point ``apache_airflow_provider``, in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-llmbatch",
        "name": "LLM Batch",
        "description": "LLM batch inference: one way to use the batch APIs of every provider.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://platform.openai.com/docs/guides/batch",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    f"{_PACKAGE}.operators.file",
                    f"{_PACKAGE}.operators.batch",
                    f"{_PACKAGE}.operators.existing_batch",
                    f"{_PACKAGE}.operators.results",
                    f"{_PACKAGE}.operators.run",
                    f"{_PACKAGE}.operators.estimate",
                ],
            }
        ],
        "sensors": [{"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.sensors.batch"]}],
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    f"{_PACKAGE}.triggers.batch",
                    f"{_PACKAGE}.triggers.queue",
                    f"{_PACKAGE}.triggers.run",
                ],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.hooks.batch"]}],
        "task-decorators": [{"name": "llmbatch", "class-name": f"{_PACKAGE}.decorators.run.llmbatch_task"}],
        "notifications": [f"{_PACKAGE}.notifications.batch_event.LLMBatchNotifier"],
        "extra-links": [f"{_PACKAGE}.links.batch.LLMBatchConsoleLink"],
        "connection-types": [
            {
                "connection-type": "llmbatch_openai",
                "hook-class-name": f"{_PACKAGE}.hooks.connections.LLMBatchOpenAIHook",
                "hook-name": "LLM Batch: OpenAI",
                "conn-fields": {
                    "organization": {
                        "label": "Organization",
                        "schema": _TEXT,
                        "description": "Sent as OpenAI-Organization. Empty: the key's own.",
                    },
                    "project": {
                        "label": "Project",
                        "schema": _TEXT,
                        "description": "Sent as OpenAI-Project. Empty: the key's own.",
                    },
                    "headers": {
                        "label": "Headers",
                        "schema": _JSON_OBJECT,
                        "description": "A JSON object of more headers to send with each call.",
                    },
                    "console_url": {
                        "label": "Console URL",
                        "schema": _TEXT,
                        "description": "Where people look at a batch, {batch_id} in it. Empty: OpenAI's own console.",
                    },
                    **_COMMON_FIELDS,
                },
                # Extra stays visible: what it holds beside these fields is left alone.
                # So does the port, which a base URL brings along by itself: the Test button of Airflow 3.3.1 and 3.3.2
                # refuses a connection without one (apache/airflow#73298).
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {"host": "https://api.openai.com/v1", "password": "sk-…", "port": "443"},
                },
            },
            {
                "connection-type": "llmbatch_azure",
                "hook-class-name": f"{_PACKAGE}.hooks.azure.LLMBatchAzureHook",
                "hook-name": "LLM Batch: Azure OpenAI",
                "conn-fields": {
                    "api_version": {
                        "label": "API version",
                        "schema": _TEXT,
                        "description": "A dated one, such as 2024-10-21, for the classic API. Empty: v1.",
                    },
                    "tenant_id": {
                        "label": "Tenant id",
                        "schema": _TEXT,
                        "description": "Of Entra ID, with a client secret, a certificate or a workload identity.",
                    },
                    "client_id": {
                        "label": "Client id",
                        "schema": _TEXT,
                        "description": "The application that the tenant knows.",
                    },
                    "client_secret": {
                        "label": "Client secret",
                        "schema": _SECRET,
                        "description": "Of that application. The API key stays empty then.",
                    },
                    "certificate_path": {
                        "label": "Certificate",
                        "schema": _TEXT,
                        "description": "PEM or PKCS12 file with certificate and private key, instead of a secret.",
                    },
                    "certificate_password": {
                        "label": "Certificate password",
                        "schema": _SECRET,
                        "description": "Of that file, if it has one.",
                    },
                    "managed_identity": {
                        "label": "Managed identity",
                        "schema": _SWITCH,
                        "description": "Use the identity that Azure gave to the machine.",
                    },
                    "managed_identity_client_id": {
                        "label": "Managed identity client id",
                        "schema": _TEXT,
                        "description": "Of a user-assigned one. Empty: the system-assigned one.",
                    },
                    "workload_identity": {
                        "label": "Workload identity",
                        "schema": _SWITCH,
                        "description": "Use the token file that Kubernetes gave to the pod.",
                    },
                    "scope": {
                        "label": "Scope",
                        "schema": _TEXT,
                        "description": "What tokens of Entra ID are for. Empty: as the shape of the endpoint wants it.",
                    },
                    "authority_host": {
                        "label": "Authority host",
                        "schema": _TEXT,
                        "description": "Where tokens come from. Empty: login.microsoftonline.com.",
                    },
                    "batch_endpoint": {
                        "label": "Batch endpoint",
                        "schema": _TEXT,
                        "description": "Sent as the endpoint of every batch. Empty: /chat/completions for chat and "
                        "responses.",
                    },
                    "file_patience": {
                        "label": "File patience",
                        "schema": _seconds(900.0),
                        "description": "Seconds to wait until Azure has read an input file of a new batch.",
                    },
                    "headers": {
                        "label": "Headers",
                        "schema": _JSON_OBJECT,
                        "description": "A JSON object of at most ten more headers to send with each call.",
                    },
                    "console_url": {
                        "label": "Console URL",
                        "schema": _TEXT,
                        "description": "Where people look at a batch, {batch_id} in it. Empty: the Foundry portal.",
                    },
                    **_COMMON_FIELDS,
                },
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "Endpoint", "password": "API key"},
                    "placeholders": {
                        "host": "https://NAME.openai.azure.com/openai/v1",
                        "password": "empty for Entra ID",
                        "port": "443",
                    },
                },
            },
            {
                "connection-type": "llmbatch_vertex",
                "hook-class-name": f"{_PACKAGE}.hooks.vertex.LLMBatchVertexHook",
                "hook-name": "LLM Batch: Vertex AI",
                "conn-fields": {
                    "project": {
                        "label": "Project",
                        "schema": _TEXT,
                        "description": "Id of the Google Cloud project. Empty: the one that the key belongs to.",
                    },
                    "location": {
                        "label": "Location",
                        "schema": _TEXT,
                        "description": "Where jobs run: a region such as us-central1, or global, us or eu. Required.",
                    },
                    "bucket": {
                        "label": "Bucket",
                        "schema": _TEXT,
                        "description": "gs://bucket or gs://bucket/prefix: input files and results lie there.",
                    },
                    "keyfile_path": {
                        "label": "Key file",
                        "schema": _TEXT,
                        "description": "Path of a service account's key. Without any key: application default "
                        "credentials.",
                    },
                    "keyfile_json": {
                        "label": "Key JSON",
                        "schema": _SECRET,
                        "description": "The key itself, as JSON, instead of a path.",
                    },
                    "impersonation_chain": {
                        "label": "Impersonation chain",
                        "schema": _TEXT,
                        "description": "Accounts to act as, with commas between them; the last one is who calls.",
                    },
                    "is_anonymous": {
                        "label": "Anonymous",
                        "schema": _SWITCH,
                        "description": "Send no token, as emulators want it.",
                    },
                    "quota_project_id": {
                        "label": "Quota project",
                        "schema": _TEXT,
                        "description": "Whose quota calls count against. Empty: as the key or the environment says.",
                    },
                    "drop_params": {
                        "label": "Drop parameters",
                        "schema": _TEXT,
                        "description": "Parameters of requests, with commas between them, to leave out where Gemini "
                        "cannot do them. Otherwise they are refused.",
                    },
                    "thinking_budgets": {
                        "label": "Thinking budgets",
                        "schema": _JSON_OBJECT,
                        "description": "Tokens for each reasoning_effort on Gemini 2.5. Empty: Google's own.",
                    },
                    "storage_url": {
                        "label": "Storage URL",
                        "schema": _TEXT,
                        "description": "Of Cloud Storage, behind a private endpoint. Empty: Google's own.",
                    },
                    **_COMMON_FIELDS,
                },
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "password"],
                    "relabeling": {"host": "Endpoint"},
                    "placeholders": {"host": "empty for Google's own", "port": "443"},
                },
            },
        ],
    }
