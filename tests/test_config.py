"""The configuration of a gateway: every key told, every mistake answered with what to write instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.cli.app import main
from kinedge.config import load_toml, unit_of
from kinedge.config_reference import KeyFact, describe_keys
from kinedge.edge.config import GatewayConfig, load_gateway_config
from kinedge.errors import ConfigError

HEAD = 'site = "s"\ngateway = "g"\n'
PERSON = '[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/x" }]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "max_delay_ms = 250\n" + PERSON,
            "max_delay_ms: unknown key; did you mean 'max_delay_s'? Its unit is s: write max_delay_s = 0.25",
        ),
        (HEAD + "keep_sent_hours = 12\n" + PERSON, "Its unit is days: write keep_sent_days = 0.5"),
        (HEAD + "max_delay = 1\n" + PERSON, "did you mean 'max_delay_s'? Its unit is s"),
        (HEAD + 'max_delay_s = "250 ms"\n' + PERSON, "max_delay_s: must be a number of s, got '250 ms'"),
        (HEAD + 'bundel = "x"\n' + PERSON, "bundel: unknown key; did you mean 'bundle'?"),
        (HEAD + PERSON + '[uplink]\nulr = "http://x"\n', "uplink.ulr: unknown key; did you mean 'url'?"),
        (HEAD + PERSON.replace("port", "prot"), "devices.0.prot: unknown key; did you mean 'port'?"),
        (HEAD + PERSON.replace('"/dev/x"', '"/dev/x", acc_range_mg = 8000'), "write acc_range_g = 8"),
        (HEAD + PERSON.replace('"/dev/x"', '"/dev/x", gyr_range_rad_s = 34.9066'), "write gyr_range_deg_s = 2000"),
        (HEAD + PERSON + "[http]\nqqqq = 1\n", "known here: dashboard, host, port, token_file"),
        (HEAD + PERSON + "[episodes]\nmax_mb = 1\n", "did you mean"),
        (HEAD + PERSON + "[record]\nfolder = 'r'\nsegment_min = 1\n", "write segment_s = 60"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write_instead(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        load_gateway_config(path)
    assert message in str(e.value) and str(e.value).startswith(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configurations")


@settings(deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda t: (HEAD + t).encode(errors="ignore")))
def test_whatever_a_file_holds_it_is_a_configuration_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="fuzz"):
        load_toml(path, GatewayConfig)


def facts() -> list[KeyFact]:
    return list(describe_keys(GatewayConfig))


def test_every_key_says_what_it_means() -> None:
    assert [f.key for f in facts() if not f.meaning] == []
    by_key = {f.key: f for f in facts()}
    assert by_key["max_delay_s"] == KeyFact(
        "max_delay_s", "number", "s", "0.25", "≥ 0.02 ≤ 5", "how long a sample waits for a slow sensor", False, None
    )
    assert by_key["uplink.url"].default is None
    assert by_key["people[].devices[].baud"].type == "integer"
    assert by_key["people[].devices[].baud"].default == "115200"
    assert by_key["models.when_enrolled"].type == "'wait' | 'cohort'"


def test_units_are_those_of_the_key() -> None:
    assert [unit_of(k) for k in ("max_delay_s", "rate_hz", "gyr_range_deg_s", "keep_sent_days", "alpha")] == [
        "s", "Hz", "deg/s", "days", "",
    ]  # fmt: skip


def test_the_file_to_begin_with_is_valid_and_tells_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.toml"
    assert main(["config", "--init", str(path)]) == 0
    assert main(["config", "--check", str(path)]) == 0
    assert "gateway gw-01 of clinic-a: p-001 (2 devices)" in capsys.readouterr().out
    text = path.read_text()
    assert [f.key for f in facts() if not f.is_table and f"{f.key.rpartition('.')[2]} = " not in text] == []
    assert main(["config", "--init", str(path)]) == 1, "what is there stays"
    assert path.read_text() == text


def test_what_is_commented_out_stands_at_its_default(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    assert main(["config", "--init", str(path)]) == 0
    plain = load_gateway_config(path)
    lines = path.read_text().splitlines()
    top = lines.index("[[people]]")
    for i, line in enumerate(lines):
        # top-level keys, and whole tables after the people; examples are not defaults
        if " = " in line and line.startswith("# ") and "…" not in line and i < top and "kinedge config" not in line:
            lines[i] = line[2:]
    path.write_text("\n".join(lines))
    spelt_out = load_gateway_config(path)
    assert spelt_out.digest() == plain.digest()
    assert spelt_out.model_copy(update={"bundle": plain.bundle}) == plain


def test_the_command_explains_checks_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {f["key"] for f in told} == {f.key for f in facts()}
    assert main(["config", "--explain"]) == 0
    assert "max_delay_s" in capsys.readouterr().out
    path = tmp_path / "gateway.toml"
    path.write_text(HEAD + "max_delay_ms = 250\n" + PERSON)
    assert main(["config", "--check", str(path)]) == 1
    assert "max_delay_s = 0.25" in capsys.readouterr().err.replace("\n", " ")
    path.write_text(HEAD + PERSON)
    assert main(["config", "--check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["people"][0]["subject"] == "p"
    assert main(["config"]) == 1
