"""The version of what engine/ relies on in the compiled modules: signatures and byte layouts.

Raised by one in the change that alters either, together with ``NATIVE_ABI`` in engine/__init__.py, so that a stale build
is refused at import instead of misbehaving.
"""

ABI_VERSION = 1
