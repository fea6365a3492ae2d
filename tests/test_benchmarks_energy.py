"""Energy: lines of tegrastats as boards print them, counters that wrap, and boards that cannot say."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.benchmarks.energy import Rapl, Tegrastats, measure_energy, parse_tegrastats, rapl_joules
from kinedge.errors import SignalError

ORIN_NANO = (
    "11-08-2023 10:20:31 RAM 3221/7620MB (lfb 4x2MB) SWAP 12/3810MB (cached 0MB) CPU [8%@729,4%@729,off,off,1%@729,"
    "0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 17%@[305] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@46.5C soc2@45.031C "
    "soc0@44.75C gpu@45.9C tj@46.5C soc1@44.9C VDD_IN 4128mW/4100mW VDD_CPU_GPU_CV 479mW/479mW VDD_SOC 1277mW/1277mW"
)
NANO = (
    "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) CPU [5%@1224,4%@1224,3%@1224,"
    "6%@1224] EMC_FREQ 0%@1600 GR3D_FREQ 0%@76 APE 25 PLL@37C CPU@40C PMIC@50C GPU@40C AO@45C thermal@40C "
    "POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406"
)
AGX_ORIN = (
    "RAM 3000/30536MB (lfb 2x4MB) CPU [1%@2201,off] EMC_FREQ 0%@3199 GR3D_FREQ 0%@[1300,1300] VIC off APE 174 "
    "CPU@43.2C tj@46C VDD_GPU_SOC 3200mW/3200mW VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 2500mW/2500mW"
)


def test_lines_of_three_generations_of_boards_are_read() -> None:
    orin, nano, agx = (parse_tegrastats(line) for line in (ORIN_NANO, NANO, AGX_ORIN))
    assert (orin.ram_mb, orin.ram_total_mb, orin.gpu_percent) == (3221, 7620, 17)
    assert orin.cpu_percent == (8, 4, None, None, 1, 0)
    assert orin.temperatures_c["tj"] == 46.5 and orin.temperatures_c["soc2"] == 45.031
    assert orin.power_mw == {"VDD_IN": 4128, "VDD_CPU_GPU_CV": 479, "VDD_SOC": 1277}
    assert (orin.total_mw, nano.total_mw, agx.total_mw) == (4128, 1750, 6500)
    assert nano.temperatures_c["PMIC"] == 50 and nano.power_mw["POM_5V_CPU"] == 366


def test_a_board_whose_rails_do_not_add_up_tells_no_total() -> None:
    assert parse_tegrastats(AGX_ORIN.replace("VIN_SYS_5V0", "VDD_OTHER")).total_mw is None
    assert parse_tegrastats("RAM 1/2MB CPU [1%@5]").total_mw is None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_what_is_no_line_is_refused_and_nothing_else_is_raised(text: str) -> None:
    try:
        parse_tegrastats(text)
    except SignalError as e:
        assert "no line of tegrastats" in str(e)


@settings(deadline=None)
@given(before=st.integers(0, 999), spent=st.integers(0, 999))
def test_a_counter_that_begins_anew_is_followed(before: int, spent: int) -> None:
    assert rapl_joules(before, (before + spent) % 1000, range_uj=999) == pytest.approx(spent / 1e6)


def test_counters_of_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core"}
    for zone, name in zones.items():
        (tmp_path / zone).mkdir()
        for key, value in (("name", name), ("max_energy_range_uj", "10000000"), ("energy_uj", "9000000")):
            (tmp_path / zone / key).write_text(f"{value}\n")
    meter = Rapl(tmp_path)
    assert meter.problem() == ""
    with meter:
        for zone in zones:
            (tmp_path / zone / "energy_uj").write_text("999999\n")
    energy = meter.energy()
    assert energy.parts == {"package-0": 2.0, "package-1": 2.0}
    assert energy.joules == 4.0 and energy.watts is not None and energy.watts > 0
    assert "no RAPL counters" in Rapl(tmp_path / "nowhere").problem()


def test_a_program_that_prints_what_a_board_would_is_integrated_over_time() -> None:
    code = f"print({ORIN_NANO!r}, flush=True); print('garbage', flush=True); print({ORIN_NANO!r}, flush=True)"
    code += "; import time; time.sleep(60)"
    meter = Tegrastats([sys.executable, "-c", code])
    with meter:
        end = time.monotonic() + 20
        while len(meter.samples) < 2 and time.monotonic() < end:
            time.sleep(0.005)
    energy = meter.energy()
    assert energy.source == "tegrastats"
    assert energy.watts == pytest.approx(4.128)
    assert energy.parts["VDD_SOC"] == pytest.approx(1.277 * energy.seconds)


def test_where_nothing_can_be_measured_that_is_said_with_its_reason() -> None:
    with measure_energy() as found:
        pass
    (energy,) = found
    if energy.joules is None:
        assert energy.source.startswith("not measurable here: no tegrastats here; ")
        assert energy.watts is None
    else:
        assert energy.source in ("tegrastats", "RAPL") and energy.joules >= 0
