"""``anomaly_score`` in SQL: the univariate detector over the samples that a statement has collected."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from engine.errors import BadRequest

POINT = pa.struct([("time", pa.timestamp("ns")), ("value", pa.float64()), ("score", pa.float64())])


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Define ``anomaly_score(value, time)``, an aggregate that gives a list of points."""
    connection.create_function(
        "tidegauge_scores_of",
        scores,
        ["BIGINT[]", "DOUBLE[]"],
        'STRUCT("time" TIMESTAMP_NS, "value" DOUBLE, score DOUBLE)[]',
        type="arrow",
        null_handling="special",
    )
    connection.execute(
        "CREATE MACRO anomaly_score(value, ts) AS tidegauge_scores_of("
        "list_transform(tidegauge_ordered(value, ts), lambda sample: epoch_ns(sample.t)),"
        " list_transform(tidegauge_ordered(value, ts), lambda sample: sample.v))"
    )


def scores(times: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Array:
    """Return each series' samples with their scores, list<:data:`POINT`>; NULL for one without samples.

    ``times`` list<int64> (ns, in order), ``values`` list<float64>.
    """
    # Loading the kernels takes from a third of a second to some seconds: only for who asks.
    from engine.detection.batch import score_series

    offsets: list[int | None] = []
    all_times, all_values, all_scores = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    end = 0
    for at, known in zip(times, values, strict=True):
        if not at.is_valid or not len(at.values):
            offsets.append(None)
            continue
        series_times, series_values = at.values.to_numpy(), known.values.to_numpy()
        if (np.diff(series_times) == 0).any():
            raise BadRequest(
                "cannot score samples: got two of one time, want the samples of one series: group by what tells series"
                " apart"
            )
        offsets.append(end)
        end += len(series_times)
        all_times.append(series_times)
        all_values.append(series_values)
        all_scores.append(score_series(series_times, series_values))
    points = pa.StructArray.from_arrays(
        [
            pa.array(np.concatenate(all_times)).cast(pa.timestamp("ns")),
            pa.array(np.concatenate(all_values)),
            pa.array(np.concatenate(all_scores)),
        ],
        fields=list(POINT),
    )
    return pa.ListArray.from_arrays(pa.array([*offsets, end], pa.int32()), points)
