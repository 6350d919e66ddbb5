"""``tidegauge lab``: the calls of ``tidegauge.lab`` on Parquet and CSV files."""
