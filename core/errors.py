"""The one error tree: what a caller may catch, and nothing else escapes from kinedge on bad input.

    KinedgeError
    ├── ProtocolError   bytes from a device that cannot be what they claim
    ├── LinkError       a port or radio that cannot be opened or was lost
    ├── SignalError     samples of a wrong shape, unit, rate or value
    ├── BundleError     a model bundle that is damaged, foreign or of another version
    ├── BackendError    an inference backend that is missing or failed
    ├── ConfigError     a configuration that cannot mean what was meant
    ├── StoreError      the episode store on disk
    └── OutboxError     the way upstream

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "ConfigError",
    "KinedgeError",
    "LinkError",
    "OutboxError",
    "ProtocolError",
    "SignalError",
    "StoreError",
]


class KinedgeError(Exception):
    """Base of every error that kinedge raises on purpose."""


class ProtocolError(KinedgeError):
    """Bytes from a device do not follow its protocol."""


class LinkError(KinedgeError):
    """A serial port, pty or radio cannot be opened, or was lost."""


class SignalError(KinedgeError):
    """Samples have the wrong shape, unit, rate or values."""


class BundleError(KinedgeError):
    """A model bundle is damaged, foreign, oversized or of another version."""


class BackendError(KinedgeError):
    """An inference backend is missing, or failed."""


class ConfigError(KinedgeError):
    """A configuration value is unknown, of the wrong type, or contradicts another."""


class StoreError(KinedgeError):
    """The episode store cannot be read or written."""


class OutboxError(KinedgeError):
    """An episode cannot be sent upstream, or was refused there."""
