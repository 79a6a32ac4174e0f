"""Makes the demo, which stands in the checkout and in no wheel, importable for the tests of its parts."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

# At the end, so that the installed package still comes before the checkout's.
if str(CHECKOUT) not in sys.path:
    sys.path.append(str(CHECKOUT))
