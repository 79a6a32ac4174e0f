"""A StatsD server on loopback that keeps the packets it is asked for."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class StatsD:
    """:param packets: Of metrics with the prefix, in the order in which they came."""

    port: int
    prefix: str
    packets: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        """What makes an Airflow send its metrics here, with their tags."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self.port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def sent(self, name: str, **tags: str) -> list[str]:
        """The values that came of a metric with these tags."""
        wanted = [f"{tag}={value}" for tag, value in tags.items()]
        heads = (packet.rpartition(":") for packet in self.packets)
        return [
            value
            for head, _, value in heads
            if head.split(",")[0] == self.prefix + name and set(wanted) <= set(head.split(",")[1:])
        ]


@contextmanager
def statsd_server(prefix: str) -> Iterator[StatsD]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.2)
        server = StatsD(listener.getsockname()[1], prefix)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    packets = listener.recv(65_536).decode().splitlines()
                except TimeoutError:
                    continue
                server.packets += [packet for packet in packets if packet.startswith(prefix)]

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join()
