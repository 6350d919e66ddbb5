"""Bulk loading: files cut into pieces that a server or an engine takes one by one, in the order of the file.

``pieces`` says what a piece is, ``text`` and ``tables`` cut files into them, ``loader`` sends them and keeps account,
``journal`` remembers how far a load has come.
"""
