"""Protobuf messages by small tables of their fields, so that files are read without the framework that wrote them."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["Field", "message_class"]

Field = tuple[int, str, str]
"""Number, name and type of a field: a scalar type of protobuf or the name of a message, with `*` if it is repeated, and
`|` if only one of the fields so marked is set, which `WhichOneof("value")` tells.
"""


def message_class(root: str, messages: Mapping[str, Sequence[Field]]) -> Any:
    """Return the class of a message.

    Args:
        root: The name of the message.
        messages: Fields of the messages, by name; others that a file has are skipped. A protobuf map is on the wire a
            repeated message of a key (1) and a value (2).
    """
    package = f"dnnamo.{root.lower()}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, field, package if field[2].rstrip("*|") in messages else "")
    pool = descriptor_pool.DescriptorPool()  # our own: frameworks register the original messages in the default one
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{root}"))


def _add_field(message: descriptor_pb2.DescriptorProto, field: Field, package: str) -> None:
    number, name, kind = field
    added = message.field.add(name=name, number=number)
    added.label = added.LABEL_REPEATED if kind.endswith("*") else added.LABEL_OPTIONAL
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="value")
        added.oneof_index = 0
    kind = kind.rstrip("*|")
    if package:
        added.type, added.type_name = added.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        added.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
