"""Hints: what says on the broker that there may be work, and who said it.

A hint names a device class and when it expires, and is signed with a key that lies in the database. So only who may
use the database can make one: whoever can merely write to the broker may repeat or remove hints, which delays work,
and that is all. There is nothing in a hint that would make one differ from another of the same second: a worker that
takes it looks into the database for the best job, so a hint that comes twice means one look too many.
"""

import hashlib
import hmac
import re
from typing import cast

from dnnamo.records import DEVICES, Device

__all__ = ["LIFETIME_S", "sign", "verify"]

LIFETIME_S = 600
"""Seconds that a hint is good for: far longer than until the next dispatch, which replaces all that wait."""

_CLOCKS_DIFFER_S = 60

_FORM = re.compile(rf"({'|'.join(DEVICES)}) ([0-9]{{1,12}}) ([0-9a-f]{{64}})".encode())


def sign(device: Device, key: bytes, *, now: float) -> bytes:
    """Return a hint for a device class, in ASCII: its name, when the hint expires in Unix seconds, a signature."""
    said = f"{device} {int(now) + LIFETIME_S}".encode()
    return said + b" " + _signature(said, key)


def verify(hint: object, key: bytes, *, now: float) -> Device | None:
    """Return the device class that a hint names.

    Args:
        hint: Anything at all.
        key: The database's key.
        now: Unix seconds by this machine's clock.

    Returns:
        None for what `sign` did not make with this key, for what has expired, and for what expires later than any hint
        that another machine made now.
    """
    found = _FORM.fullmatch(hint) if isinstance(hint, bytes) else None
    if found is None:
        return None
    device, expires, signature = found.groups()
    if not hmac.compare_digest(signature, _signature(device + b" " + expires, key)):
        return None
    if not now < int(expires) <= now + LIFETIME_S + _CLOCKS_DIFFER_S:
        return None
    return cast("Device", device.decode())


def _signature(said: bytes, key: bytes) -> bytes:
    return hmac.new(key, b"dnnamo hint " + said, hashlib.sha256).hexdigest().encode()
