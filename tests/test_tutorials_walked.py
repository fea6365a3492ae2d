"""The tutorials, typed from their pages in order, in an empty folder, against the installed ``kinedge``.

Each page is one shell session: of blocks marked ``console`` what follows ``$`` is typed. A comment
before a block is for this test alone, readers do not see it:

    <!-- walk: write gateway.toml -->    the block is put into that file, whole
    <!-- walk: not here, WHY -->         the block is not run: it needs hands, a sensor, a source tree, another extra

Time is shortened by ``SHORTER``, and by nothing else: every replacement must be used, so that a page that changes is
noticed. An ordinary line that fails, fails the test; background jobs are ended when the page is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the tutorials need: pip install 'kinedge[upstream,record,report]'")
pytest.importorskip("pyarrow", reason="the tutorials need: pip install 'kinedge[upstream,record,report]'")
pytest.importorskip("jinja2", reason="the tutorials need: pip install 'kinedge[upstream,record,report]'")

pytestmark = [pytest.mark.xdist_group("tutorials"), pytest.mark.timeout(400)]

PAGES = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
KINEDGE = shutil.which("kinedge", path=str(Path(sys.executable).parent))

#: What a page says, and what is typed in its place: less time, the same commands. Ports are free ones of this machine.
SHORTER: dict[str, list[tuple[str, str]]] = {
    "arm-use": [
        ("collect --db collector.db", "collect --db collector.db --port 8765"),
        # until the first change is an episode, and Ctrl-C, in place of a minute and a half
        ("kinedge run gateway.toml\n", "kinedge run gateway.toml & wait_for_an_episode; kill -INT %3; wait %3\n"),
        # four minutes of movement in place of forty; for less than thirty one must ask
        ("--duration 2460 --speed 10", "--duration 300 --speed 20"),
        ("--duration 240", "--duration 12"),
        ("enrol monday", "enrol monday --allow-short"),
        ("kinedge feedback 35018b9d", 'kinedge feedback "$(first_episode)"'),
    ],
    "training-ground": [
        ("curl -s http://127.0.0.1:9464/health", "wait_for_an_episode; curl -s http://127.0.0.1:9464/health"),
    ],
    "latency-bench": [
        ("--streams 1,64 --rounds 9 --out a.json", "--streams 1,8 --rounds 3 --round-s 0.005 --out a.json"),
        ("--streams 1,64 --rounds 9 --out b.json", "--streams 1,8 --rounds 3 --round-s 0.005 --out b.json"),
        ("--people 4 --seconds 20 --live-seconds 10", "--people 1 --seconds 30 --live-seconds 0"),
    ],
}

_LIMIT_S = 300.0
_MARK = re.compile(
    r"(?:<!-- walk: (?P<mark>[^\n]*?) -->\n+)?^(?P<fence>`{3,})(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_HANDS = """
wait_for_an_episode() { for i in $(seq 90); do sleep 1; python -c 'import sqlite3
store = sqlite3.connect("file:kinedge-edge.db?mode=ro", uri=True)
raise SystemExit(not store.execute("SELECT count(*) FROM episodes").fetchone()[0])' 2> .waited && break; done
sleep 3; }
first_episode() { kinedge episodes --store kinedge-edge.db --json | python -c 'import json, sys
print(json.load(sys.stdin)[-1]["id"][:8])'; }
"""


@dataclass(frozen=True)
class Step:
    """A block of a page that is typed or written."""

    line: int
    text: str
    file: str = ""


def steps_of(name: str) -> tuple[list[Step], list[str]]:
    """Return what is to be done for a page, and the reasons of what is not."""
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    steps, left_out = [], []
    for found in _MARK.finditer(page):
        mark = found["mark"] or ""
        line = page.count("\n", 0, found.start("fence")) + 1
        if mark.startswith("not here, "):
            left_out.append(mark.removeprefix("not here, "))
        elif mark.startswith("write "):
            steps.append(Step(line, found["text"], mark.removeprefix("write ")))
        elif found["language"] == "console":
            steps.append(Step(line, typed(found["text"])))
        assert not mark or mark.startswith(("not here, ", "write ")), f"{name}.md:{line}: an unknown mark {mark!r}"
    return steps, left_out


def typed(block: str) -> str:
    """Return what a reader types of a console block, and what the button beside it copies: what follows ``$``."""
    lines = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    assert not any("<<" in line or line.endswith("\\") for line in lines), "the button would copy only part of it"
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def script_of(name: str) -> str:
    """Return what is typed for a page, in less time."""
    text = ""
    for step in steps_of(name)[0]:
        text += f"echo '== {name}.md:{step.line}'\n"
        text += f"cat > {step.file} <<'END_OF_BLOCK'\n{step.text}END_OF_BLOCK\n" if step.file else step.text
    for page, here in SHORTER[name]:
        assert page in text, f"{name}.md no longer says {page!r}; SHORTER in this test has to follow"
        text = text.replace(page, here)
    for number in ("9464", "8765"):
        text = text.replace(number, str(free_port()))
    return "set -m -e\n" + _HANDS + text


class Walk:
    """A page that is being typed into a shell, in a folder of its own."""

    def __init__(self, name: str, room: Path) -> None:
        self.room = room
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
        env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with (room / ".shown").open("w") as shown:
            self._shell = subprocess.Popen(
                ["bash", "-c", script_of(name)],
                cwd=room,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=shown,
                start_new_session=True,
            )

    def told(self) -> str:
        """Wait for the end of the page, and return what was shown."""
        try:
            status = self._shell.wait(_LIMIT_S)
        finally:
            self.end()
        told = (self.room / ".shown").read_text(encoding="utf-8")
        assert status == 0, told[-3000:]
        return told

    def end(self) -> None:
        """End what the page left running."""
        end_session(self._shell.pid)
        self._shell.wait(10)


def end_session(leader: int) -> None:
    """End what a page left running: every job has a group of its own, in the session of its shell."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Walk]]:
    """All pages at once: most of their time is that of sensors, which wait for nobody."""
    if KINEDGE is None:
        pytest.skip("kinedge is not installed as a command beside this Python")
    begun: dict[str, Walk] = {}
    try:
        for name in SHORTER:
            begun[name] = Walk(name, tmp_path_factory.mktemp(name))
        yield begun
    finally:
        for walk in begun.values():
            walk.end()


def test_arm_use_at_home_does_what_its_page_says(walks: dict[str, Walk]) -> None:
    told, room = walks["arm-use"].told(), walks["arm-use"].room
    assert "valid; gateway gw-01 of home-a: p-001 (2 devices)" in told and "collector listens on" in told
    assert re.search(r"p-001, [0-9a-f]{12}…: dismissed", told) and "rows, unbroken" in told
    assert "2 devices" in told and "monday: " in told and "use ratio" in told
    for made in ("p-001.enrolment", "p-001.svg", "days.svg", "clinic.pem.pub"):
        assert (room / made).stat().st_size > 100, made
    assert "p-001" in (room / "p-001.html").read_text(encoding="utf-8")
    with sqlite3.connect(room / "collector.db") as collector:
        assert collector.execute("SELECT count(*) FROM episodes").fetchone()[0] >= 1


def test_a_training_ground_does_what_its_page_says(walks: dict[str, Walk]) -> None:
    told, room = walks["training-ground"].told(), walks["training-ground"].room
    assert all(f"p-00{i} (2 devices)" in told for i in range(1, 5))
    assert '"ok": true' in told and "kinedge_samples_lost_total" in told
    said = {subject for subject in re.findall(r'"subject": "(p-00\d)"', (room / "verdicts.jsonl").read_text())}
    assert said == {"p-001", "p-002", "p-003", "p-004"}
    assert set(re.findall(r"│ (p-00\d)", told)) == {"p-003"}, "only the third person's movement was changed"


def test_a_latency_bench_does_what_its_page_says(walks: dict[str, Walk]) -> None:
    told, room = walks["latency-bench"].told(), walks["latency-bench"].room
    assert "chunks of 50" in told and "b as a multiple of a" in told and "uplink" in told
    assert "doubtful" in told  # three rounds are too few to be believed, and the page promises that this is said
    assert "<svg" in (room / "page.html").read_text(encoding="utf-8")


def test_what_is_not_walked_says_why_and_is_the_smaller_part() -> None:
    for name in SHORTER:
        steps, left_out = steps_of(name)
        assert len(steps) > len(left_out) and all(len(why) > 10 for why in left_out)
