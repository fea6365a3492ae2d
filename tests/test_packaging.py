"""The rooms make one package: listed, ordered, honest about names, whole in the wheel, free of torch on a board."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_DIR: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
FILES = {
    path.relative_to(ROOT): f"{package}.{path.stem}" if path.stem != "__init__" else package
    for package, folder in PACKAGE_DIR.items()
    for path in sorted((ROOT / folder).glob("*.py"))
}


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    rooms = {d for d in PACKAGE_DIR.values()}
    found = {
        str(p.parent.relative_to(ROOT))
        for room in {d.split("/")[0] for d in rooms}
        for p in (ROOT / room).rglob("*.py")
        if "__pycache__" not in p.parts
    }
    assert found == rooms
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(PACKAGE_DIR)


@pytest.mark.parametrize("module", sorted(set(FILES.values())))
def test_a_module_offers_what_it_names(module: str) -> None:
    if module.endswith("__main__"):
        return
    loaded = importlib.import_module(module)
    assert loaded.__doc__, f"{module} does not say what it is"
    names = getattr(loaded, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(loaded, name), f"{module}.{name}"


def test_the_wheel_holds_every_module_and_the_shipped_model(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
        timeout=240,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path, module in FILES.items():
        expected = module.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")
        assert expected in names
    assert "kinedge/py.typed" in names
    assert "kinedge/edge/models/wrists-sim.kinedge" in names
    firmware = ("kinedge_wire.h", "kinedge_wire.c", "example_main.c")
    assert {f"kinedge/firmware_bridge/firmware/{name}" for name in firmware} <= names
    # it knows no version of Python, and numpy does the work where it could not be built
    assert wheel.name.startswith("kinedge-") and "-py3-none-" in wheel.name
    assert ("kinedge/edge/native/_kinedge.so" in names) == (not wheel.name.endswith("-any.whl"))
    assert "kinedge/edge/native/_kinedge.so" in names or shutil.which("gcc") is None
    for page in ("edge/dashboard/static", "upstream/desk/static"):
        built = {f"kinedge/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / page).rglob("*") if p.is_file()}
        assert built and built <= names, f"{page} is not whole in the wheel"
    assert wheel.stat().st_size < 2_000_000


def test_the_edge_loads_without_torch_or_any_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'fastapi', 'sqlalchemy', 'uvicorn'):\n"
        "    sys.modules[name] = None\n"  # an import of it now fails
        "import kinedge.edge.service, kinedge.training.simulate, kinedge.firmware_bridge.emulator\n"
        "from kinedge.cli import main\n"
        "assert main(['--help']) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
