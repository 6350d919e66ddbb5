"""The read path: samples read together, aligned ranges without SQL, and analysts' SQL in a process of its own.

This file imports nothing, so that the query process loads only what it uses.
"""
