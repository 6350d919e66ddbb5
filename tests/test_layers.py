"""The house's one rule: a module imports only from lower rows, or from its own part (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROW_OF_PART = {
    "model": 0, "disk": 0, "errors": 0, "spelling": 0, "config": 0, "clock": 0, "vitals": 0,
    "catalog": 1, "wal": 1, "segments": 1,
    "hot": 2, "rollups": 2,
    "query": 3, "ingest": 3,
    "detection": 4, "forecasting": 4,
    "alerting": 5, "scaling": 5, "deploys": 5, "delivery": 5,
    "maintenance": 6, "collect": 6,
    "runtime": 7,
}  # fmt: skip
#: Parts that judge what they are handed and never look into storage themselves (ARCHITECTURE.md).
WITHOUT_STORAGE = {"alerting", "scaling", "deploys", "delivery", "detection", "forecasting"}
STORAGE = {"wal", "segments", "hot", "rollups", "query", "ingest"}
ALLOWED_PACKAGES = {
    "engine": {"engine", "native"},
    "native": {"native"},
    "api": {"api", "engine", "native", "tidegauge"},
    "tidegauge": {"api", "engine"},
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who depends on whom"
            assert node.module is not None
            yield node.module


def part_of(module: str) -> str:
    """Return the part of a module; ``config_*.py`` are the pages of one part."""
    pieces = module.split(".")
    part = pieces[1] if len(pieces) > 1 else ""
    return "config" if part.startswith("config") else part


@pytest.mark.parametrize("package", sorted(ALLOWED_PACKAGES))
def test_packages_point_one_way(package: str) -> None:
    ours = {"engine", "native", "api", "tidegauge", "tests", "benchmarks"}
    for path in modules(package):
        for module in imports(path):
            top = module.split(".")[0]
            assert top not in ours or top in ALLOWED_PACKAGES[package], f"{path} imports {module}"


def test_engine_parts_import_only_lower_rows() -> None:
    for path in modules("engine"):
        relative = path.relative_to(ROOT / "engine")
        own = part_of(f"engine.{relative.parts[0].removesuffix('.py')}")
        if own == "__init__":
            continue
        assert own in ROW_OF_PART, f"engine/{own} has no row; add it here and to ARCHITECTURE.md"
        for module in imports(path):
            if module.split(".")[0] != "engine":
                continue
            other = part_of(module)
            if other in ("", own):
                continue
            lower = ROW_OF_PART[other] < ROW_OF_PART[own]
            both_at_the_bottom = ROW_OF_PART[own] == 0 and ROW_OF_PART[other] == 0
            assert lower or both_at_the_bottom, f"{path} (row {ROW_OF_PART[own]}) imports {module}"


def test_judges_do_not_look_into_storage() -> None:
    for path in modules("engine"):
        own = path.relative_to(ROOT / "engine").parts[0]
        if own in WITHOUT_STORAGE and path.name != "runner.py":
            for module in imports(path):
                assert part_of(module) not in STORAGE or module.split(".")[0] != "engine", f"{path} imports {module}"
