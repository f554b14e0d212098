"""Doubles that can be made anew in a Ray actor: what they keep is what their constructors take."""

import asyncio
import os
from pathlib import Path

from coterie.experts.base import Expert
from coterie.types import Call, Completion, Usage, derive_seed


class Noted(Expert):
    """Answers after a while, with its process id where asked for, and notes every call in a file.

    A call for ``fatal`` ends its process.
    """

    def __init__(
        self, name: str, log: str, delay: float = 0.005, slots: int = 2, fatal: str = ""
    ) -> None:
        self.name, self.log, self.delay, self.slots, self.fatal = name, log, delay, slots, fatal

    @property
    def size(self) -> int:
        return 100

    async def complete(self, call: Call) -> Completion:
        text = str(call.messages[-1]["content"])
        with Path(self.log).open("a") as log:
            log.write(f"{self.name} {text}\n")
        await asyncio.sleep(1.0 if text == "slow" else self.delay)
        if self.fatal and self.fatal in text:
            os._exit(1)
        word = ["yes", "no", "maybe"][derive_seed(call.digest()) % 3]
        said = str(os.getpid()) if text in ("slow", "who?") else f"{word}: {text}"
        return Completion(self.name, said, Usage(9, len(said)), 0.5, logprob=-0.1 * len(said))
