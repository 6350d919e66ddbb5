from collections.abc import Iterable

from typing_extensions import Buffer

from native.pooledrows import DecodedSamples, PooledRows

class PromTextDecoder(PooledRows):
    def decode(
        self,
        body: Buffer,
        *,
        table_id: int,
        default_time_ns: int,
        min_time_ns: int,
        max_time_ns: int,
        open_metrics: bool = False,
        labels: Iterable[tuple[bytes, bytes]] = (),
    ) -> DecodedSamples: ...
