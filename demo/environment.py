"""Where the demo runs: its own Airflow home in the checkout, and no setting of anybody else's."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT: Final = Path(__file__).resolve().parent.parent
DAG_ID: Final = "nightly_batch_inference"
PYTHON: Final = (sys.executable, "-P")
"""-P: the installed package, as users have it, and not the folder that the demo happens to stand in."""

REVIEWS: Final = CHECKOUT / "example_dags" / "data" / "product_reviews.csv"


@dataclass(frozen=True)
class Environment:
    """Paths below one Airflow home."""

    home: Path = CHECKOUT / ".airflow"

    @property
    def log_file(self) -> Path:
        return self.home / "demo.log"

    @property
    def server_data(self) -> Path:
        return self.home / "batch_server"

    @property
    def output(self) -> Path:
        return self.home / "nightly_batch_inference"

    def airflow_variables(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
        }


def inherited(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that child processes get, without those that would lead to another Airflow, model or proxy."""
    foreign = ("AIRFLOW", "_AIRFLOW", "LLMBATCH_", "PYTHONSAFEPATH", "PYTHONWARNINGS", "STORAGE_EMULATOR")
    return {name: value for name, value in variables.items() if not name.upper().startswith(foreign)} | {
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_WAIT_POLICY": "PASSIVE",  # llama.cpp's idle threads would spin, which makes a busy machine crawl
    }
