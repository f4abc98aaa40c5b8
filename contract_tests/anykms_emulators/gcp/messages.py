"""The protobuf messages under google-cloud-kms' proto-plus types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor


def raw(message: Any) -> Message:
    """The protobuf message itself; changing it changes the proto-plus object."""
    if isinstance(message, Message):
        return message
    return cast("Message", cast("Any", type(message)).pb(message))


def descriptor_of(kind: Any) -> Descriptor:
    """The descriptor of a message type."""
    return cast("Descriptor", raw(kind()).DESCRIPTOR)


def parse(kind: Any, data: bytes) -> Any:
    """The message in `data`; google.protobuf.message.DecodeError for bytes that are none."""
    return kind.FromString(data) if issubclass(kind, Message) else kind.deserialize(data)


def enum_name(message: Any, field: str) -> str:
    """The name of an enum field's value; the number when the installed enum has no name for it.

    proto-plus itself would warn about such a number.
    """
    number: int = getattr(raw(message), field)
    enum = descriptor_of(type(message)).fields_by_name[field].enum_type
    named = None if enum is None else enum.values_by_number.get(number)
    return str(number) if named is None else str(named.name)


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as a dict of the fields that are set; enums by number, wrapped values bare."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            result[field.name] = list(value) if field.is_repeated else value
        elif field.message_type.GetOptions().map_entry:
            result[field.name] = dict(value)
        elif field.is_repeated:
            result[field.name] = [plain(each) for each in value]
        elif field.message_type.full_name == "google.protobuf.Int64Value":
            result[field.name] = value.value
        else:
            result[field.name] = plain(value)
    return result


def has_field(kind: Any, path: Sequence[str]) -> bool:
    """Whether messages of `kind` have a single value at `path`: a scalar or an Int64Value."""
    holder: Descriptor | None = descriptor_of(kind)
    found = False
    for name in path:
        field = None if holder is None else holder.fields_by_name.get(name)
        if field is None or field.is_repeated:
            return False
        holder, found = field.message_type, True
    return found and (holder is None or holder.full_name == "google.protobuf.Int64Value")
