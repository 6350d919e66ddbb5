from typing_extensions import Buffer

from native.pooledrows import DecodedSamples, PooledRows

class RemoteWriteDecoder(PooledRows):
    def decode(
        self, body: Buffer, *, table_id: int, min_time_ns: int, max_time_ns: int, version: int = 1
    ) -> DecodedSamples: ...
