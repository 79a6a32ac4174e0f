"""No setting of the user's reaches the demo's Airflow."""

from __future__ import annotations

from pathlib import Path

from demo.environment import Environment, inherited


def test_variables_that_lead_to_another_airflow_are_left_out() -> None:
    mine = {"PATH": "/bin", "HOME": "/srv/me", "LANG": "C.UTF-8"}
    foreign = {
        "AIRFLOW_HOME": "/srv/airflow",
        "AIRFLOW_CONFIG": "/srv/airflow.cfg",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_CONN_LLMBATCH_DEFAULT": "{}",
        "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "other",
        "LLMBATCH_SERVER_API_KEY": "sk-of-the-user",
        "PYTHONSAFEPATH": "1",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1",
    }
    kept = inherited({**mine, **foreign})
    assert {name: kept[name] for name in mine} == mine
    assert kept.keys().isdisjoint(foreign)


def test_a_proxy_is_never_asked_for_this_machine() -> None:
    kept = inherited({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "example.org", "no_proxy": "example.org"})
    assert (kept["NO_PROXY"], kept["no_proxy"]) == ("127.0.0.1,localhost", "127.0.0.1,localhost")


def test_everything_that_airflow_writes_stands_below_its_home() -> None:
    environment = Environment(Path("/checkout/.airflow"))
    variables = environment.airflow_variables()
    assert variables["AIRFLOW_HOME"] == "/checkout/.airflow"
    assert variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite:////checkout/.airflow/airflow.db"
    for path in (environment.log_file, environment.server_data, environment.output):
        assert path.is_relative_to("/checkout/.airflow")
