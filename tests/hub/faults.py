"""What goes wrong on purpose: which request, how, how often."""

import fnmatch
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

KINDS = (
    "whoami", "create", "delete", "validate-yaml", "preupload", "lfs-batch", "lfs-upload", "lfs-verify", "commit",
    "info", "tree", "paths-info", "list", "refs", "commits", "tag", "branch", "head", "get", "cdn",
)  # fmt: skip
"""The kinds of request. `head` and `get` are those of a file (resolve); `cdn` is where a redirect leads."""

ACTIONS = (
    "status", "refuse", "cut", "reset", "lost", "wrong-size", "other-bytes", "stale-parent", "slow",
    "garbled",
)  # fmt: skip
"""`status`: that HTTP status is answered, and nothing done. `refuse`: the connection is closed unanswered, nothing done.
`cut`: the request is carried out, half of the answer's body sent, then the connection closed. `reset`: the same, but
closed by a TCP reset. `lost`: carried out, and closed unanswered. `wrong-size`: the answer's body is a byte longer, and
its Content-Length says so. `other-bytes`: same length, one byte another. `stale-parent`: somebody else's commit lands
just before this one. `slow`: wait, then answer as usual. `garbled`: carried out, and the answer's body is what
`garble` makes of it."""


@dataclass
class Fault:
    """One fault. `kind` and `path` are globs, `path` of the file a request is for; `times` None means always,
    `chance` how likely each request meets it.
    """

    kind: str
    action: str
    times: int | None = None
    after: int = 0
    path: str = "*"
    status: int = 503
    code: str = ""
    seconds: float = 0.0
    chance: float = 1.0
    garble: Callable[[bytes], bytes] | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            message = f"no fault {self.action!r}; there are {', '.join(ACTIONS)}"
            raise ValueError(message)
        if not any(fnmatch.fnmatchcase(kind, self.kind) for kind in KINDS):
            message = f"no kind of request {self.kind!r}; there are {', '.join(KINDS)}"
            raise ValueError(message)

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read KIND=ACTION or KIND=STATUS, either with `xTIMES` at the end: `commit=503`, `get=cut x1`."""
        kind, _, action = text.partition("=")
        action, _, times = action.partition("x") if " x" in action else (action, "", "")
        action = action.strip()
        status = int(action) if action.isdecimal() else 503
        return cls(kind, "status" if action.isdecimal() else action, times=int(times) if times else None, status=status)


@dataclass
class Faults:
    """The faults that are switched on, and the count of what was asked and served."""

    active: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def take(self, kind: str, path: str) -> Fault | None:
        """The fault that this request meets, used up by one. Counts the request."""
        with self.lock:
            self.requests[kind] += 1
            for fault in self.active:
                if not (fnmatch.fnmatchcase(kind, fault.kind) and fnmatch.fnmatchcase(path, fault.path)):
                    continue
                if fault.chance < 1 and self.dice.random() >= fault.chance:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times is not None:
                    if fault.times <= 0:
                        continue
                    fault.times -= 1
                return fault
        return None
