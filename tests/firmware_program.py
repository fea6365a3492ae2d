"""The firmware library in C, compiled with every warning and sanitizer, and asked through a pipe."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from kinedge.firmware_bridge.firmware_header import FIRMWARE_FOLDER, SOURCES

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
TIMEOUT_S = 20.0
EXAMPLES = settings(deadline=None, max_examples=100)


def compile_c(out: Path, *sources: Path, flags: Sequence[str] = ()) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: install gcc to check the firmware library")
    probe = subprocess.run(
        [compiler, *SANITIZED, "-x", "c", "-", "-o", str(out.with_suffix(".probe"))],
        input=b"int main(void) { return 0; }",
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("this C compiler has no address and undefined-behaviour sanitizers")
    options = [*STRICT, *SANITIZED, *flags, f"-I{FIRMWARE_FOLDER}"]
    command = [compiler, *options, *map(str, sources), "-lm", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


class Firmware:
    """The C library behind a pipe."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, operation: str, body: bytes, *, size: int = 5000) -> tuple[int, bytes]:
        assert self.process.stdin is not None and self.process.stdout is not None
        body = struct.pack("<H", size) + body
        self.process.stdin.write(struct.pack("<cI", operation.encode(), len(body)) + body)
        self.process.stdin.flush()
        head = self.process.stdout.read(8)
        assert len(head) == 8, "the C program ended: see what its sanitizer printed"
        result, n = struct.unpack("<iI", head)
        return result, self.process.stdout.read(n)

    def encoded(self, operation: str, body: bytes, *, size: int = 5000) -> bytes:
        result, data = self.ask(operation, body, size=size)
        assert result == len(data) > 0
        return data

    def decode(self, line: bytes, *, size: int) -> tuple[list[bytes | int], int, int]:
        """Return payloads and error codes in order, then the counts of good and bad frames."""
        n_results, data = self.ask("d", line, size=size)
        found: list[bytes | int] = []
        for _ in range(n_results):
            (result,) = struct.unpack_from("<i", data)
            n = max(result, 0)
            found.append(data[4 : 4 + n] if result > 0 else result)
            data = data[4 + n :]
        good, bad = struct.unpack("<II", data)
        return found, good, bad


u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@contextmanager
def firmware_running(folder: Path) -> Iterator[Firmware]:
    program = compile_c(folder / "filter", Path(__file__).with_name("firmware_filter.c"), SOURCES[0])
    firmware = Firmware(program)
    yield firmware
    firmware.process.communicate(timeout=TIMEOUT_S)
    assert firmware.process.returncode == 0, "the sanitizers found leaks or worse"
