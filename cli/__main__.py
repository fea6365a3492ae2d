"""``python -m kinedge.cli``."""

from __future__ import annotations

import sys

from kinedge.cli.app import main

sys.exit(main())
