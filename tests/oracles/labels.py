"""A dictionary that numbers byte strings in order of first sight."""

from __future__ import annotations


class LabelTable:
    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def __len__(self) -> int:
        return len(self.keys)

    def intern(self, key: bytes) -> int:
        if key not in self.keys:
            self.keys.append(key)
        return self.keys.index(key)

    def find(self, key: bytes) -> int:
        return self.keys.index(key) if key in self.keys else -1

    def key(self, identifier: int) -> bytes:
        if not 0 <= identifier < len(self.keys):
            raise ValueError(identifier)
        return self.keys[identifier]
