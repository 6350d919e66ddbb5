"""The write-ahead log: what a batch is acknowledged against (docs/formats/wal.md).

``layout`` names files and knows their header, ``writer`` appends frames and removes files, ``reader``
brings frames back and repairs, ``tail`` follows the log while it is being written, ``payload`` knows what a
frame of a batch means.  The others do not look into payloads.
"""
