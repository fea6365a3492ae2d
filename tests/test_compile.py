"""Whose models are compiled, for how many people; enrolments keep to their precision; replays take the model in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinedge.bundle import Bundle, pack_bundle, read_bundle, write_bundle
from kinedge.cli import main
from kinedge.cli.replay_session import gateway_of
from kinedge.edge.backends.trt_library import driver_problem
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig, load_gateway_config
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.model_versions import ModelVersions
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer
from kinedge.edge.trusted import bundle_in_use
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.recorded import RecordedSession
from kinedge.quantize.fp16 import to_fp16
from kinedge.signing import generate_key, load_signing_key, sign_archive
from kinedge.training.simulate import SimulationConfig, simulate

GATEWAY = (
    'site = "s"\ngateway = "g"\nbundle = "m.kinedge"\n[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/x" }]\n'
)

no_gpu = pytest.mark.skipif(driver_problem() is None, reason="this machine has a GPU")


@pytest.fixture
def folder(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that did not come with kinedge, not signed, and a key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fields = bundle.manifest.model_dump(mode="json", exclude={"parts"})
    write_bundle(tmp_path / "m.kinedge", pack_bundle({**fields, "name": "mine"}, bundle.parts))
    generate_key(tmp_path / "clinic.pem")
    (tmp_path / "gateway.toml").write_text(f"max_streams = 3\n{GATEWAY}[trust]\nkeys = ['clinic.pem.pub']\n")
    return tmp_path


def sign(path: Path, key: Path) -> None:
    data = path.read_bytes()
    write_bundle(path, sign_archive(data, load_signing_key(key), kind="bundle", digest=read_bundle(data).digest))


def test_compile_takes_only_what_a_trusted_key_has_signed_or_says_that_nobody_did(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed here")
    model, cache = folder / "m.kinedge", folder / "cache"
    rest = ["--library", "tensorrt-rtx", "--precision", "fp32", "--cache", str(cache), "--max-streams", "1", "--json"]

    def run(*arguments: str, status: int = 0) -> dict[str, object]:
        assert main(["compile", *arguments, *rest]) == status
        said = capsys.readouterr()
        return json.loads(said.out) if status == 0 else {"error": " ".join(said.err.split())}

    for arguments in ([str(model)], [str(model), "--trusted", str(folder / "clinic.pem.pub")]):
        told = run(*arguments, status=1)["error"]
        assert "not signed" in str(told) and "--unsigned" in str(told)
        assert not cache.exists()
    assert run(str(model), "--unsigned")["signed"] is False
    sign(model, folder / "clinic.pem")
    assert run(str(model), "--trusted", str(folder / "clinic.pem.pub"))["signed"] is True
    assert "not trusted here" in str(run(str(model), status=1)["error"])
    found = run("--config", str(folder / "gateway.toml"))
    assert (found["signed"], found["digest"]) == (True, read_bundle(model).digest)
    assert run(str(DEFAULT_BUNDLE))["signed"] is True
    assert "name a .kinedge file" in str(run(status=1)["error"])


@no_gpu
def test_a_signature_is_judged_before_a_gpu_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--config", str(folder / "gateway.toml")]) == 1
    assert "not signed" in capsys.readouterr().err
    sign(folder / "m.kinedge", folder / "clinic.pem")
    assert main(["compile", "--config", str(folder / "gateway.toml")]) == 1
    assert "use backend 'onnx' here" in capsys.readouterr().err


def test_an_engine_must_hold_everybody_of_the_gateway() -> None:
    people = [{"subject": f"p-{i}"} for i in range(70)]
    content = {"site": "s", "gateway": "g", "people": people}
    assert GatewayConfig.model_validate(content).max_streams == 64  # ONNX Runtime takes any number
    with pytest.raises(ValueError, match=r"70 people do not fit .*set max_streams = 70"):
        GatewayConfig.model_validate({**content, "backend": ["tensorrt", "onnx"]})
    config = GatewayConfig.model_validate({**content, "backend": ["tensorrt", "onnx"], "max_streams": 70})
    assert config.digest() == GatewayConfig.model_validate(content).digest()


def test_the_model_in_use_is_that_of_the_folder_of_models(folder: Path) -> None:
    (folder / "root.json").write_text("{}")
    text = (folder / "gateway.toml").read_text()
    (folder / "gateway.toml").write_text(
        f'{text}[models]\nurl = "http://localhost/repo"\nroot = "root.json"\nname = "wrists"\n'
    )
    config = load_gateway_config(folder / "gateway.toml")
    session = RecordedSession.__new__(RecordedSession)
    object.__setattr__(session, "folder", folder)
    assert bundle_in_use(config) == folder / "m.kinedge"
    assert not (folder / "models").exists()  # asking makes nothing
    data = (folder / "m.kinedge").read_bytes()
    digest = read_bundle(data).digest
    versions = ModelVersions(folder / "models")
    versions.install(digest, data, b"golden")
    versions.activate(digest)
    (folder / "m.kinedge").unlink()
    assert read_bundle(bundle_in_use(config)).digest == digest
    replayed = gateway_of({"p": session}, folder / "edge.db", config_path=folder / "gateway.toml")
    assert read_bundle(replayed.bundle).digest == digest
    named = gateway_of({"p": session}, folder / "e.db", config_path=folder / "gateway.toml", bundle=DEFAULT_BUNDLE)
    assert named.bundle == DEFAULT_BUNDLE


@pytest.fixture(scope="module")
def two_precisions(bundle: Bundle) -> Bundle:
    fields = bundle.manifest.model_dump(mode="json", exclude={"parts"})
    fields["precisions"]["fp16"] = "model.fp16.onnx"
    more = {"model.fp16.onnx": to_fp16(bundle.model_bytes()), "calibration.fp16.npz": bundle.parts["calibration.npz"]}
    return read_bundle(pack_bundle(fields, {**bundle.parts, **more}))


def test_an_enrolment_names_its_precision_and_is_refused_in_another(two_precisions: Bundle) -> None:
    specs = two_precisions.manifest.sensor_specs
    movement = simulate(SimulationConfig(subject_seed=91, session_seed=91, duration_s=240)).select(specs)
    scorers = {p: Scorer(two_precisions, precision=p) for p in ("fp32", "fp16")}

    def enrol(precision: str) -> Enrolment:
        return enrol_recordings(scorers[precision], [movement], subject="p", allow_short=True, made_s=0)

    made = {p: enrol(p) for p in scorers}
    assert {p: e.manifest.precision for p, e in made.items()} == {"fp32": "fp32", "fp16": "fp16"}
    assert People(scorers["fp16"], ["p"], {"p": made["fp16"]}).bases[0].calibration == "personal"
    for own, runs in (("fp32", "fp16"), ("fp16", "fp32")):
        with pytest.raises(ConfigError, match=f"p: the enrolment was made in {own}, and {runs} runs here; enrol again"):
            People(scorers[runs], ["p"], {"p": made[own]})
