"""An expert that runs the Python code in what it is sent, in a process of its own. NO SANDBOX.

The process has limits on time, memory, files and processes, an empty environment and a scratch
folder, and is killed with its children when time is up. It still has the rights of the user who
runs Coterie: it can read that user's files and use the network. Run untrusted code only inside a
container or a virtual machine made for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from coterie.errors import InputError
from coterie.experts.base import Expert, check_limits
from coterie.experts.sizes import parse_bytes
from coterie.experts.threads import PerLoop
from coterie.types import Call, Completion

BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
OUTPUT = 20_000  # characters of output that are kept
LIMITS = """
import resource, sys
seconds, memory, written = map(int, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open(sys.argv[4], encoding="utf-8") as file:
    code = compile(file.read(), "answer.py", "exec")
sys.argv = ["answer.py"]
exec(code, {"__name__": "__main__"})
"""


class PythonExpert(Expert):
    """Answers with what the code of the last message prints; code that fails is a failed answer.

    Run is the last fenced block of the message, or all of it where there is none. See the module:
    this is no sandbox, so it must be switched on.

    Parameters
    ----------
    allow_execution
        Must be true; whoever sets it answers for what experts write.
    timeout
        Seconds until the process and its children are killed, and about as many of CPU time.
    memory, files
        Bytes of address space, and of each file that it writes (``"256 MB"``).
    slots
        Processes side by side.
    """

    def __init__(
        self,
        name: str,
        *,
        allow_execution: bool = False,
        timeout: float = 5.0,
        memory: str | int = "512 MB",
        files: str | int = "1 MB",
        slots: int = 2,
    ) -> None:
        if allow_execution is not True:
            message = (
                "running what experts write is off by default and no sandbox; set it to true "
                "inside a container or virtual machine made for it"
            )
            raise InputError(message, field="allow_execution")
        check_limits(timeout, slots)
        self.name, self.timeout, self.slots = name, float(timeout), slots
        self.memory, self.files = parse_bytes(memory), parse_bytes(files)
        self._free = PerLoop(lambda: asyncio.Semaphore(slots))

    def fingerprint(self) -> str:
        """Version of Python and the limits."""
        version = ".".join(map(str, sys.version_info[:2]))
        return f"python {version} {self.timeout:g} s {self.memory} {self.files}"

    async def complete(self, call: Call) -> Completion:
        """See Expert: the output, or as the error how the code failed."""
        async with self._free.get():
            start = time.perf_counter()
            text, error = await self._run(code_of(str(call.messages[-1].get("content") or "")))
            seconds = time.perf_counter() - start
        reason = "stop" if error is None else "error"
        why = None if error is None else f"{self.name}: {error}"
        return Completion(self.name, text, latency=seconds, finish_reason=reason, error=why)

    async def _run(self, code: str) -> tuple[str, str | None]:
        """What the code printed, and how it failed."""
        if not code.strip():
            return "", "there is no code to run"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "answer.py"
            path.write_bytes(code.encode("utf-8", "replace"))
            limits = (str(max(int(self.timeout), 1)), str(self.memory), str(self.files))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-c", LIMITS, *limits, str(path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder},
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(self.timeout):
                    output = await _read(process)
            except TimeoutError:
                return "", f"the code ran for more than {self.timeout:g} s"
            finally:
                await _end(process)
        text = output.decode("utf-8", "replace")[:OUTPUT]
        if process.returncode == 0:
            return text, None
        return text, f"the code failed ({_status(process.returncode)}): {_last_line(text)}"


def code_of(text: str) -> str:
    r"""The last fenced block of a text, or all of it.

    >>> code_of("So:\n```python\nprint(1)\n```\nDone.")
    'print(1)\n'
    """
    blocks: list[str] = BLOCK.findall(text)
    return blocks[-1] if blocks else text


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """The first of the output; the rest is read and dropped, so that the process can go on."""
    assert process.stdout is not None
    kept = bytearray()
    while piece := await process.stdout.read(1 << 16):
        kept += piece[: max(4 * OUTPUT - len(kept), 0)]
    await process.wait()
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _status(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no output"
