"""Segments: the sealed rows of a table as standard Parquet files, and the manifest that says which of them
count.
"""
