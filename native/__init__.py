"""Native core: the loops between socket and disk, compiled at build time and run without the GIL."""

#: Raised by one whenever a native signature or byte layout that engine/ relies on changes.
ABI_VERSION = 1
