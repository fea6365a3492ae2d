"""The shared words: units, channels, recordings, configuration, the envelope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.config import Config, load_toml
from kinedge.envelope import Envelope, episode_id, parse_envelope
from kinedge.errors import ConfigError, KinedgeError, OutboxError, SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.units import accel_from_counts, period_ns, rad_s_from_deg_s

DIGEST = "0" * 64


def test_full_scale_counts_are_full_scale_g_and_one_g_reads_9_81() -> None:
    counts = np.array([[2048, 0, -16384]], np.int16)
    acc = accel_from_counts(counts, full_scale_g=16)
    assert np.allclose(acc, [[9.80665, 0, -78.4532]], rtol=1e-6)
    assert np.isclose(rad_s_from_deg_s(np.array([180.0]))[0], np.pi)
    with pytest.raises(SignalError, match="n_samples, 3"):
        accel_from_counts(counts[:, :2], full_scale_g=16)


def test_impossible_rates_are_refused() -> None:
    assert period_ns(50) == 20_000_000
    for rate in (0.0, -1.0, float("nan"), 1e6):
        with pytest.raises(SignalError, match="between 1 and 10000"):
            period_ns(rate)


def test_a_sensor_must_have_a_plain_name_and_known_channels() -> None:
    for name, channels in [("Wrist", ("acc_x",)), ("w", ("acc_w",)), ("w", ()), ("w", ("acc_x", "acc_x"))]:
        with pytest.raises(SignalError):
            SensorSpec(name, channels)


def recording(n: int = 100) -> Recording:
    values = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    sensors = (SensorSpec("a", ("acc_x", "gyr_x")), SensorSpec("b", ("acc_y", "gyr_y")))
    return Recording(sensors, 50.0, values, np.ones((n, 4), bool), labels=(Region(10, 30, "freeze"),), subject="s1")


def test_selecting_and_slicing_keep_columns_and_labels_together() -> None:
    r = recording()
    picked = r.select([SensorSpec("b", ("gyr_y",)), SensorSpec("a", ("acc_x",))])
    assert np.array_equal(picked.values, r.values[:, [3, 0]])
    part = r.slice(20, 60)
    assert part.labels == (Region(0, 10, "freeze"),)
    assert r.label_mask("freeze").sum() == 20
    assert r.columns("b") == slice(2, 4)
    with pytest.raises(SignalError, match=r"missing channels c\.acc_x"):
        r.select([SensorSpec("c", ("acc_x",))])


def test_a_recording_with_nan_marked_valid_is_refused() -> None:
    r = recording()
    values = r.values.copy()
    values[3, 1] = np.nan
    with pytest.raises(SignalError, match="NaN"):
        Recording(r.sensors, 50.0, values, r.valid)


def test_a_digest_changes_with_values_and_mask_but_not_with_what_is_masked() -> None:
    r = recording()
    valid = r.valid.copy()
    valid[5, 0] = False
    masked = Recording(r.sensors, 50.0, r.values, valid)
    values = r.values.copy()
    values[5, 0] = 99
    assert masked.digest() != r.digest()
    assert Recording(r.sensors, 50.0, values, valid).digest() == masked.digest()


class _Inner(Config):
    rate_hz: float = 50.0


class _Outer(Config):
    inner: _Inner = _Inner()
    name: str = "x"


def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[inner]\nrate_khz = 3\n")
    with pytest.raises(ConfigError, match=r"inner\.rate_khz: unknown key; did you mean 'rate_hz'"):
        load_toml(path, _Outer)
    path.write_text("not toml = = 3")
    with pytest.raises(ConfigError, match="no valid TOML"):
        load_toml(path, _Outer)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_toml(tmp_path / "absent.toml", _Outer)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_toml(path, _Outer)


def envelope_fields(**changes: Any) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "site": "clinic",
        "gateway": "gw-1",
        "subject": "p-1",
        "sensors": ("wrist_left", "wrist_right"),
        "start_utc_ns": 10**18,
        "model_digest": DIGEST,
    }
    identity |= {k: v for k, v in changes.items() if k in identity}
    rest = {k: v for k, v in changes.items() if k not in identity}
    return {
        "id": episode_id(**identity, raw_sha256=None),
        "sequence": 1,
        "end_utc_ns": 10**18 + 5,
        "ended": "as_usual",
        "peak_score": 2.5,
        "min_p_value": 0.001,
        "unsure_share": 0.1,
        "sentence": "x",
        "config_digest": DIGEST,
        "kinedge_version": "0.1.0",
        **identity,
        **rest,
    }


def test_the_id_follows_from_what_makes_an_episode_itself() -> None:
    first = Envelope(**envelope_fields())
    assert parse_envelope(first.to_bytes()) == first
    assert Envelope(**envelope_fields(peak_score=9.0)).id == first.id
    assert Envelope(**envelope_fields(subject="p-2")).id != first.id
    with pytest.raises(OutboxError, match="id does not follow"):
        parse_envelope(first.to_bytes().replace(b'"subject":"p-1"', b'"subject":"p-9"'))


def test_no_names_and_no_free_text_fit_where_a_pseudonym_belongs() -> None:
    for subject in ("", "Jane Doe", "a/b", "x" * 65, "'; DROP TABLE episodes; --"):
        with pytest.raises(ValueError, match="subject"):
            Envelope(**envelope_fields(subject=subject))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_bytes_make_the_envelope_reader_raise_anything_but_our_error(data: st.DataObject) -> None:
    body = bytearray(Envelope(**envelope_fields()).to_bytes())
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    else:
        body = bytearray(data.draw(st.binary(max_size=300)))
    try:
        parsed = parse_envelope(bytes(body))
    except OutboxError:
        return
    assert parse_envelope(parsed.to_bytes()) == parsed


def test_every_error_of_ours_is_a_kinedge_error() -> None:
    from kinedge import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), KinedgeError)
