"""Where the machine code of kernels is kept between starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

import native.kernels
from native.kernels.compiling import KEPT_VERSIONS, cache_directory, sources_digest

UNSET = {"NUMBA_CACHE_DIR": "", "CACHE_DIRECTORY": "", "XDG_CACHE_HOME": ""}


def compile_kernels(environment: dict[str, str]) -> None:
    text = "import native.kernels.smoothing; from numba import config; assert config.CACHE_DIR == ''"
    subprocess.run([sys.executable, "-c", text], env=os.environ | UNSET | environment, check=True, timeout=200)


@pytest.mark.parametrize("variable", ["CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_machine_code_is_kept_in_the_users_cache_and_not_beside_the_code(tmp_path: Path, variable: str) -> None:
    compile_kernels({variable: str(tmp_path)})
    assert list((tmp_path / "tidegauge" / "kernels").rglob("*.nbi"))
    assert not list(Path(native.kernels.__file__).parent.rglob("*.nbi"))


def test_kernels_compile_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    compile_kernels({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert (tmp_path / "file").read_bytes() == b""


def test_the_users_choice_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in UNSET:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "tidegauge" / "kernels" / sources_digest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "tidegauge" / "kernels" / sources_digest()
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/service:/elsewhere")
    assert cache_directory() == tmp_path / "service" / "tidegauge" / "kernels" / sources_digest()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "numba"))
    assert cache_directory() == tmp_path / "numba" / "tidegauge" / "kernels" / sources_digest()


def test_a_change_of_any_file_of_the_kernels_compiles_all_of_them(tmp_path: Path) -> None:
    # A part that stands in a file of its own: numba alone would not see that it has changed.
    package = tmp_path / "native" / "kernels"
    shutil.copytree(Path(native.kernels.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "native" / "__init__.py").touch()
    kernel = "from native.kernels.compiling import changed, kernel\nfrom native.kernels.extra import extra\n"
    kernel += "from numba import float64\n@kernel(changed(float64))\ndef add(x):\n    x[0] += extra(1.0)\n"
    (package / "adding.py").write_text(kernel)
    ask = "import numpy as np; from native.kernels.adding import add; x = np.zeros(1); add(x); print(x[0])"
    seen = []
    for amount in (1.0, 1.0, 2.0):
        part = f"from native.kernels.compiling import part\n@part\ndef extra(x):\n    return {amount} * x\n"
        (package / "extra.py").write_text(part)
        environment = os.environ | UNSET | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        run = [sys.executable, "-B", "-c", ask]
        seen.append(
            subprocess.run(
                run, env=environment, cwd=tmp_path, check=True, timeout=200, capture_output=True, text=True
            ).stdout
        )
    assert [float(each) for each in seen] == [1.0, 1.0, 2.0]
    assert len(list((tmp_path / "cache" / "tidegauge" / "kernels").iterdir())) == 2


def test_machine_code_of_a_few_versions_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    kernels = tmp_path / "tidegauge" / "kernels"
    for age, name in enumerate("abcde"):
        (kernels / name).mkdir(parents=True)
        os.utime(kernels / name, (1_000 - age, 1_000 - age))
    assert cache_directory() == kernels / sources_digest()
    assert {each.name for each in kernels.iterdir()} == {sources_digest(), *"abcde"[: KEPT_VERSIONS - 1]}
