"""``python -m kinedge``: the command line, found by name so that core itself imports no room."""

from __future__ import annotations

import importlib
import sys

sys.exit(importlib.import_module("kinedge.cli.app").main())
