"""The engine: everything between decoded bytes and a decision.  See ARCHITECTURE.md for who may import whom."""

#: The native modules that this source belongs to (native/abi.pyx).
NATIVE_ABI = 1

try:
    from native.abi import ABI_VERSION
except ImportError as error:
    raise ImportError(
        "cannot import the engine: the native modules are not built; run `pip install .` (or `make native` in a source"
        f" tree) and start outside the source tree or from an editable installation ({error})"
    ) from error

if ABI_VERSION != NATIVE_ABI:
    raise ImportError(
        f"cannot import the engine: the native modules have version {ABI_VERSION}, want {NATIVE_ABI};"
        " build them again with `pip install .` or `make native`"
    )
