"""The page on devices tells every family, and what it tells to configure can be configured."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kinedge.config import load_toml
from kinedge.edge.config import PersonConfig
from kinedge.firmware_bridge.device import SessionConfig
from kinedge.firmware_bridge.devices import drivers
from kinedge.firmware_bridge.open_device import DeviceConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "devices.md").read_text(encoding="utf-8")
POINTS = (
    "Transport",
    "Decoded",
    "Rates",
    "Commands",
    "Time",
    "Loss",
    "Sources and choices",
    "Configure",
    "Tested against",
)
OURS = sorted(n for n, d in drivers().items() if type(d).__module__.startswith("kinedge."))


def section(family: str) -> str:
    found = re.search(rf"^## {family}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/devices.md has no section on {family}"
    return found[1]


def configured(family: str, folder: Path) -> tuple[DeviceConfig, ...]:
    (block,) = re.findall(r"```toml\n(.*?)```", section(family), re.DOTALL)
    (folder / "person.toml").write_text(f'subject = "P-1"\n{block}', encoding="utf-8")
    return load_toml(folder / "person.toml", PersonConfig).devices


@pytest.mark.parametrize("family", [*OURS, "struct_map"])
def test_every_family_has_a_section_that_leaves_nothing_out(family: str) -> None:
    text = section(family)
    assert [p for p in POINTS if f"* **{p}**" not in text] == []
    assert f"[{family}](#{family})" in PAGE or family == "struct_map"


@pytest.mark.parametrize("family", OURS)
def test_what_a_section_configures_opens_a_session_of_its_family(family: str, tmp_path: Path) -> None:
    driver = drivers()[family]
    told = configured(family, tmp_path)
    for config in told:
        transport = "serial" if config.is_serial else "ble"
        assert config.family == family and transport in driver.transports
        session = SessionConfig(
            config.sensor or "unnamed", rate_hz=config.rate_hz, acc_range_g=config.acc_range_g, options=config.options
        )
        assert driver.open(session, transport=transport)
    transport_line = section(family).split("* **Decoded**")[0].split("* **Transport**")[1]
    assert {t for t, word in {"ble": "BLE", "serial": "serial"}.items() if word in transport_line} == driver.transports


@pytest.mark.parametrize("family", [*OURS, "struct_map"])
def test_what_a_section_records_names_a_device_of_its_family(family: str) -> None:
    (line,) = re.findall(r"^kinedge record .*$", section(family), re.MULTILINE)
    words = shlex.split(line)
    sensors = [after for word, after in pairwise(words) if word == "--sensor"]
    assert sensors
    for text in sensors:
        place, _, rest = text.partition("=")
        name, _, where = rest.partition("@")
        own: dict[str, Any] = {"struct_map": name} if name.endswith(".toml") else {"family": name}
        assert own.get("family", "struct_map") == family
        DeviceConfig.model_validate({"sensor": place, **DeviceConfig.way_of(where), **own})


def test_pages_say_that_nothing_real_was_tested_and_link_to_what_there_is() -> None:
    assert "**Tested against emulators only.**" in PAGE
    for page in ("devices.md", "serial-ports.md"):
        for target in re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page} links to {target}"
    anchors = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert anchors == set(re.findall(r"^## ([a-z0-9_]+)$", PAGE, re.MULTILINE))
