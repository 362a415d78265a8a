"""The text of a trace file in pieces, so that a file of any size takes the memory of one.

A trace is a JSON object whose `traceEvents` is a list of events, or that list alone ("Trace Event Format", Google;
Kineto writes the former). The list is cut at borders between events, each piece is handed over as a list of its own,
and whatever else the object holds is kept as the header. That a cut was a true border shows by the piece being JSON.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import msgspec

from dnnamo.errors import UsageError

__all__ = ["CHUNK", "Damaged", "TraceText", "unpacked"]

CHUNK = 1 << 19
"""Bytes of text read at once, and so about the size of a piece."""

_FIRST_CHUNK = 1 << 15
"""The first ones are smaller: what stands there, such as names of threads, fits no event, and its piece comes again."""

_GZIP, _ZIP, _MARK = b"\x1f\x8b", b"PK\x03\x04", b"\xef\xbb\xbf"
_LIST = re.compile(rb'"traceEvents"\s*:\s*\[')
_BORDER = re.compile(rb"\}\s*,\s*\{")
_BETWEEN = re.compile(rb"[\s,]*")
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_NO_NUMBER = re.compile(rb'("(?:[^"\\]|\\.)*")|-?(?:NaN|nan|Infinity|inf)\b', re.DOTALL)
_LARGEST_HEADER, _LONGEST_KEY = 1 << 27, 64
_LARGEST_GAP = 1 << 22
_CANDIDATES = 4


class Damaged(Exception):
    """Raised when text is no JSON, however much of it there were.

    Attributes:
        at: Where, in bytes from the start of the text.
    """

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


def unpacked(file: BinaryIO, damage: list[str]) -> Iterator[bytes]:
    """Return the text of a file, gunzipped or unzipped where its content says so, in chunks.

    Args:
        file: Opened for reading bytes, and at its start.
        damage: Gets a sentence where a compressed file turns out to be cut off.
    """
    start = file.read(4)
    file.seek(0)
    if start.startswith(_GZIP):
        return _ahead(_gunzipped(file, damage))
    return _ahead(_unzipped(file)) if start == _ZIP else _raw(file)


def _raw(file: BinaryIO) -> Iterator[bytes]:
    size = min(_FIRST_CHUNK, CHUNK)
    while chunk := file.read(size):
        yield chunk
        size = min(2 * size, CHUNK)


def _gunzipped(file: BinaryIO, damage: list[str]) -> Iterator[bytes]:
    packed, stream = b"", zlib.decompressobj(wbits=31)
    while packed := packed or file.read(CHUNK):
        if stream.eof:  # another member of the same file; or zeros that some tapes and disks append
            packed = packed.lstrip(b"\0")
            stream = zlib.decompressobj(wbits=31)
            continue
        yield stream.decompress(packed, CHUNK)
        packed = stream.unconsumed_tail or stream.unused_data
    if not stream.eof:
        damage.append("The compressed file is cut off.")


def _unzipped(file: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        if len(names) != 1:
            found = ", ".join(archive.namelist()[:5]) or "nothing"
            raise UsageError(
                f"A zipped trace must hold one .json file, and this archive holds {len(names)} of them ({found}). "
                "Unpack it and read the trace that is meant."
            )
        with archive.open(names[0]) as member:
            yield from _raw(member)  # type: ignore[arg-type]


def _ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack the next chunk in a thread, which needs no lock for that, while the last one is decoded."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, chunks, None)
        while (chunk := waiting.result()) is not None:
            waiting = thread.submit(next, chunks, None)
            yield chunk


class TraceText:
    """The text of one trace, which `each` takes apart.

    Attributes:
        header: What the object holds beside its events; complete once `each` has returned.
        damage: What is wrong with the text, a sentence each.
        events: Number of events handed over.
        strange_numbers: Number of values such as NaN, which JSON does not have; they are handed over as text.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.header: dict[str, Any] = {}
        self.damage: list[str] = []
        self.events = 0
        self.strange_numbers = 0
        self._chunks = chunks
        self._text = b""
        self._offset = 0
        self._ended = False

    def begins(self) -> bool:
        """Return whether this looks like JSON at all."""
        self._fill()
        if self._text.startswith(_MARK):
            self._drop(len(_MARK))
        while not self._ended and not self._text.strip():
            self._fill()
        return self._text.lstrip()[:1] in (b"{", b"[")

    def is_empty(self) -> bool:
        """Return whether there is no text at all, once `begins` was asked."""
        return self._ended and not self._text.strip()

    def excerpt(self, at: int = 0) -> str:
        """Return a few characters of the text from a place on."""
        near = max(at - self._offset, 0)
        return self._text[near : near + 40].decode("utf-8", "replace")

    def each(self, take: Callable[[bytes], int]) -> None:
        """Hand the events over.

        Args:
            take: Gets a JSON list and returns how many events were in it. What it raises of `msgspec.DecodeError` says
                that this was no JSON, and then it gets the same events again, cut or mended otherwise.

        Raises:
            Damaged: If the text stops being JSON at some place before its end.
            UsageError: If it is JSON but no trace.
        """
        before = self._open()
        while not self._take_piece(take):
            pass
        self._close(before)

    def _fill(self) -> None:
        self._append(self._next())

    def _next(self) -> bytes:
        chunk = next(self._chunks, None)
        self._ended = chunk is None
        return chunk or b""

    def _append(self, chunk: bytes) -> None:
        self._text = self._text + chunk if self._text else chunk

    def _drop(self, count: int) -> None:
        self._text = self._text[count:]
        self._offset += count

    def _open(self) -> bytes:
        """Go to the first event; return the text before the list."""
        text = self._text.lstrip()
        if text.startswith(b"["):
            self._drop(len(self._text) - len(text) + 1)
            return b""
        start = 0
        while True:
            found = _LIST.search(self._text, start)
            if found is None:
                if self._ended or len(self._text) > _LARGEST_HEADER:
                    raise self._no_trace()
                start = max(0, len(self._text) - _LONGEST_KEY)
                self._fill()
            elif _is_json(self._text[: found.end()] + b"]}"):  # and so the list is the outermost object's
                before = self._text[: found.end()]
                self._drop(found.end())
                return before
            else:
                start = found.end()

    def _no_trace(self) -> Exception:
        try:
            keys = ", ".join(repr(key) for key in list(msgspec.json.decode(self._text))[:8])
        except msgspec.DecodeError as exc:
            return Damaged(self._offset + (_place(exc) or len(self._text)), str(exc))
        return UsageError(f"This is JSON, but no trace: it has no 'traceEvents' but {keys or 'nothing'}.")

    def _take_piece(self, take: Callable[[bytes], int]) -> bool:
        """Hand over what there is up to the last border; return whether that was all."""
        self._drop(_between(self._text))  # now, as later it would take a copy of all that comes
        if not self._ended:
            chunk = self._next()
            if self._take_with(chunk, take):
                return False
            self._append(chunk)
            self._drop(_between(self._text))
        text, end = self._text, len(self._text)
        for _ in range(0 if self._ended else _CANDIDATES):
            end = _last_border(text, end)
            if end <= 0:
                break
            if self._hand_over(take, end):
                return False
        return self._take_carefully(take)

    def _take_with(self, chunk: bytes, take: Callable[[bytes], int]) -> bool:
        """Hand over what there is and the next chunk up to its last border, which saves a copy of both together."""
        end = _last_border(chunk, len(chunk))
        if not end:
            return False
        try:
            self.events += take(b"".join((b"[", self._text, memoryview(chunk)[:end], b"]")))
        except msgspec.DecodeError:
            return False
        self._offset += len(self._text) + end
        self._text = chunk[end:]
        return True

    def _hand_over(self, take: Callable[[bytes], int], end: int) -> bool:
        try:
            self.events += take(b"".join((b"[", memoryview(self._text)[:end], b"]")))
        except msgspec.DecodeError:
            return False
        self._drop(end)
        return True

    def _take_carefully(self, take: Callable[[bytes], int]) -> bool:
        """Find out where the events end and whether all is well with them."""
        failure = _failure(b"[" + self._text)
        place = _place(failure)
        at = len(self._text) if place is None else place - 1
        if failure is None:
            return self._take_last(take, self._text.rindex(b"]"))
        if "trailing characters" in str(failure):
            return self._take_last(take, self._text.rindex(b"]", 0, at))
        if "trailing comma" in str(failure):
            self._text = self._text[:at].rstrip().rstrip(b",") + self._text[at:]
            return self._take_carefully(take)
        if at < len(self._text):
            return self._mend(at)
        return self._take_rest(take) if self._ended else self._take_complete(take)

    def _take_complete(self, take: Callable[[bytes], int]) -> bool:
        end = _complete(self._text)
        if end and not self._hand_over(take, end):
            raise Damaged(self._offset, "an event is no JSON")
        return False

    def _take_last(self, take: Callable[[bytes], int], end: int) -> bool:
        if not self._hand_over(take, end):
            raise Damaged(self._offset, "an event is no JSON")
        self._drop(1)
        return True

    def _take_rest(self, take: Callable[[bytes], int]) -> bool:
        """Take the complete events of a text that ends before its list does."""
        self._take_complete(take)
        self._drop(_between(self._text))
        if self._text:
            self.damage.append(
                f"The file ends within event {self.events + 1:,}, which begins at byte {self._offset:,} of its text; "
                "what came after is missing."
            )
        self._text = b""
        return True

    def _mend(self, at: int) -> bool:
        """Put quotes around numbers that JSON does not have; if that is not what is wrong, nothing can be done."""
        whole = _complete(self._text)
        mended, count = _quoted(self._text[:whole])
        if count:
            self.strange_numbers += count
            self._text = mended + self._text[whole:]
        elif self._ended or at < whole or len(self._text) - at > _LARGEST_GAP:
            raise Damaged(self._offset + at, str(_failure(b"[" + self._text)))
        return False

    def _close(self, before: bytes) -> None:
        """Decode what stands around the list."""
        after = b"".join([self._text, *self._chunks]).strip()
        if not before:
            if after:
                self.damage.append(f"{len(after):,} bytes follow the list of events and were left out.")
            return
        if not after:
            self.damage.append("The file ends before its outermost object does.")
        self.header = self._decoded(before + b"]" + (after or b"}"), before)
        self.header.pop("traceEvents", None)

    def _decoded(self, text: bytes, before: bytes) -> dict[str, Any]:
        try:
            return dict(msgspec.json.decode(text))
        except msgspec.DecodeError as exc:
            self.damage.append(f"What follows the events is damaged and was left out: {exc}.")
            return dict(msgspec.json.decode(before + b"]}"))


def _is_json(text: bytes) -> bool:
    return _failure(text) is None


def _failure(text: bytes) -> msgspec.DecodeError | None:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError as exc:
        return exc
    return None


def _quoted(text: bytes) -> tuple[bytes, int]:
    """Return a text with quotes around NaN and infinities, and how many there were."""
    count = 0

    def quote(found: re.Match[bytes]) -> bytes:
        nonlocal count
        if found[1]:
            return found[1]
        count += 1
        return b'"%b"' % found[0]

    return _NO_NUMBER.sub(quote, text), count


def _place(failure: msgspec.DecodeError | None) -> int | None:
    """Return the byte that a failure names; it names none where the text was only too short."""
    found = re.search(r"\(byte (\d+)\)", str(failure))
    return int(found[1]) if found else None


def _between(text: bytes) -> int:
    found = _BETWEEN.match(text)
    return found.end() if found else 0


def _last_border(text: bytes, end: int) -> int:
    """Return where the last event before `end` that another one follows might end, 0 if there is none."""
    while (end := text.rfind(b"}", 0, end)) > 0:
        if _BORDER.match(text, end):
            return end + 1
    return 0


def _complete(text: bytes) -> int:
    """Return where the last complete event of a text ends, going by its brackets."""
    depth = end = 0
    for token in _TOKENS.finditer(text):
        kind = token[0][:1]
        if kind in b"{[":
            depth += 1
        elif kind in b"}]":
            depth -= 1
            if depth == 0:
                end = token.end()
    return end
