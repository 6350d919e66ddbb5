"""An answer of rows, whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SqlResult:
    """An Arrow table and what it was made from."""

    table: pa.Table
    metadata: dict[str, Any]
