"""The engine's detectors, forecasters and policies on your own arrays: exactly the code and defaults of the server.

Missing values are NaN; times are int64 nanoseconds.  Nothing here has a parameter to set for a data set.
"""

from __future__ import annotations

from engine.deploys.gate import gate
from engine.detection.batch import score_matrix, score_series
from engine.detection.causes import rank_causes
from engine.forecasting.arrays import forecast
from engine.scaling.simulation import ScalingPolicy

__all__ = ["ScalingPolicy", "forecast", "gate", "rank_causes", "score_matrix", "score_series"]
