"""Keys: who may ask, and whose a response is."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

ANYBODY = "anybody"


class Keys:
    """The keys that a server takes; with none it is open to whoever reaches it.

    Args:
        keys: in plain text; only digests of them are kept.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._salt = secrets.token_bytes(16)
        self._digests = [self._digest(key) for key in keys]

    @property
    def are_asked_for(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self._digests)

    def owner(self, header: str | None) -> str | None:
        """Return a name for who sent a request; None if its key is missing or wrong.

        It takes as long for every key: digests are compared, all of them, to their ends.

        Args:
            header: the value of "Authorization", `Bearer KEY`.
        """
        if not self._digests:
            return ANYBODY
        scheme, _, key = (header or "").partition(" ")
        given = self._digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return given.hex() if any(matches) and scheme.lower() == "bearer" else None

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(
            key.encode("utf-8", "surrogateescape"), digest_size=16, key=self._salt
        ).digest()
