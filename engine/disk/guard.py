"""The disk guard: writes stop before the disk is full, and go on by themselves when there is space again.

The reserve is what sealing, rollup flushes and the control database may still use while writers are turned away:
sealing turns log into smaller segments and so gives space back.  Merging segments needs space first and gives it back
later; it never begins when its output would reach into the reserve.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from engine.clock import Clock
from engine.disk.filesystem import FileSystem
from engine.errors import DiskFull

LOG = logging.getLogger("tidegauge.disk")
#: The system is asked at most this often.
CHECK_SECONDS = 1.0
#: Writes go on when this share more than the reserve is free, so that the state does not flutter.
LEAVE_FACTOR = 1.05
RETRY_AFTER_SECONDS = 30


class DiskGuard:
    """Watches the free space of one data directory; callable from any thread."""

    def __init__(self, fs: FileSystem, root: str, *, reserve_bytes: int, clock: Clock) -> None:
        self._fs, self._root, self._clock = fs, root, clock
        self.reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._free_bytes = 0
        self._low = False
        self.times_low = 0

    def free_bytes(self) -> int:
        """Return how much is free, as of at most :data:`CHECK_SECONDS` ago."""
        self._look()
        return self._free_bytes

    @property
    def low(self) -> bool:
        """Whether writers are turned away."""
        self._look()
        return self._low

    def admit(self) -> None:
        """Raise DiskFull while writers are turned away."""
        if self.low:
            raise DiskFull(
                f"cannot accept a write: {self._free_bytes} bytes are free, {self.reserve_bytes} are kept in reserve"
                " (storage.disk_reserve)",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def has_room(self, size_bytes: int) -> bool:
        """Return whether a file of this size leaves the reserve untouched; asks the system each time."""
        return self._fs.free_bytes(self._root) - size_bytes >= self.reserve_bytes

    def state(self) -> dict[str, Any]:
        """Return the state for people and programs."""
        low = self.low
        return {
            "state": "low" if low else "ok",
            "free_bytes": self._free_bytes,
            "reserve_bytes": self.reserve_bytes,
        }

    def _look(self) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if self._checked_at is not None and 0 <= now - self._checked_at < CHECK_SECONDS:
                return
            self._free_bytes, self._checked_at = self._fs.free_bytes(self._root), now
            if not self._low and self._free_bytes < self.reserve_bytes:
                self._low = True
                self.times_low += 1
                LOG.error(
                    "the disk is almost full: %d bytes are free, %d are kept in reserve; writes are refused until there"
                    " is space again (%s)",
                    self._free_bytes,
                    self.reserve_bytes,
                    self._root,
                )
            elif self._low and self._free_bytes >= self.reserve_bytes * LEAVE_FACTOR:
                self._low = False
                LOG.warning(
                    "the disk has space again: %d bytes are free; writes go on (%s)", self._free_bytes, self._root
                )
