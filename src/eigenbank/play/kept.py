"""What was made lately, kept within a bound: the least lately used goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """A dictionary whose values take at most `room` together, as `size` counts; the newest stays whatever it takes."""

    def __init__(self, room: int, size: Callable[[V], int] = lambda _value: 1) -> None:
        self.room = room
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._taken = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which becomes the newest; None where it is not kept."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; others may go."""
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._taken += self._size(value)
            while self._taken > self.room and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def __len__(self) -> int:
        return len(self._values)

    def _drop(self, key: K) -> None:
        if key in self._values:
            self._taken -= self._size(self._values.pop(key))
