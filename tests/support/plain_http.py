"""What httpx needs for servers on loopback, which speak no TLS."""

from __future__ import annotations

import ssl
from typing import Final

NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``verify``: by itself httpx reads a list of authorities for each client, 25 ms long."""
