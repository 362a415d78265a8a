"""What a reader gives: the events of one profile, as recorded, and what its file says beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnamo.profiles.events import Events

__all__ = ["Recording"]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One profile as its source has it, in the normal form and not linked yet.

    Attributes:
        source: What recorded it: the reader's name, or one that is more exact.
        events: Its events.
        base_ns: Unix time at which the clock of the events was 0, in nanoseconds; 0 where the clock is Unix time or
            where the source does not say.
        header: What the source says beside the events, JSON values; `tracks` holds Chrome's metadata events, which
            name processes and threads.
        dropped: What could not be kept, as the end of a sentence that begins with a number ("events without a
            duration"), and how many there were.
        damage: What is wrong with the source as a whole, one sentence each ("The file ends within an event …").
        native: Files to keep beside the events, where those could not give them back: content or path, by name.
    """

    source: str
    events: Events
    base_ns: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    native: dict[str, bytes | Path] = field(default_factory=dict)
