"""What there is, as Flight SQL asks for it: catalogues, schemas, tables, table types, properties of the server.

Relations have no catalogue and no schema, so their names need no qualification; both are told as empty texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from api.flight import types
from api.flight.messages import Message
from engine.query.relations import quoted

CATALOG, SCHEMA = "", ""
#: Table types by what SHOW TABLES calls a relation.
TYPES = {"measurement": "TABLE"}
OTHER_TYPE = "VIEW"
Ask = Callable[[str, Sequence[Any]], pa.Table]

_VALUE = pa.dense_union(
    [
        pa.field("string_value", pa.string()),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", pa.int32()),
        pa.field("string_list", pa.list_(pa.string())),
        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
    ]
)
_TEXT, _FLAG, _NUMBER = 0, 1, 2
_CASE_INSENSITIVE = 1
_NULLS_AT_END = 3
#: Number of a property -> (member of the union, value).  Source of the numbers: FlightSql.proto, enum SqlInfo.
PROPERTIES: dict[int, tuple[int, Any]] = {
    0: (_TEXT, "tidegauge"),
    1: (_TEXT, ""),
    2: (_TEXT, pa.__version__),
    3: (_FLAG, True),
    4: (_FLAG, True),
    5: (_FLAG, False),
    8: (3, 0),
    9: (_FLAG, False),
    10: (_FLAG, False),
    11: (_FLAG, False),
    500: (_FLAG, False),
    501: (_FLAG, False),
    502: (_FLAG, False),
    503: (_NUMBER, _CASE_INSENSITIVE),
    504: (_TEXT, '"'),
    505: (_NUMBER, _CASE_INSENSITIVE),
    506: (_FLAG, True),
    507: (_NUMBER, _NULLS_AT_END),
    515: (_FLAG, True),
    516: (_FLAG, True),
    517: (3, 0),
    563: (_FLAG, False),
}

_TABLES = [
    pa.field("catalog_name", pa.string()),
    pa.field("db_schema_name", pa.string()),
    pa.field("table_name", pa.string(), nullable=False),
    pa.field("table_type", pa.string(), nullable=False),
]
SCHEMAS: dict[str, pa.Schema] = {
    "CommandGetCatalogs": pa.schema([pa.field("catalog_name", pa.string(), nullable=False)]),
    "CommandGetDbSchemas": pa.schema(
        [pa.field("catalog_name", pa.string()), pa.field("db_schema_name", pa.string(), nullable=False)]
    ),
    "CommandGetTables": pa.schema(_TABLES),
    "CommandGetTableTypes": pa.schema([pa.field("table_type", pa.string(), nullable=False)]),
    "CommandGetSqlInfo": pa.schema(
        [pa.field("info_name", pa.uint32(), nullable=False), pa.field("value", _VALUE, nullable=True)]
    ),
    "CommandGetPrimaryKeys": pa.schema(
        [
            *_TABLES[:3],
            pa.field("column_name", pa.string(), nullable=False),
            pa.field("key_name", pa.string()),
            pa.field("key_sequence", pa.int32(), nullable=False),
        ]
    ),
}
_NO_KEYS = pa.schema(
    [
        pa.field("pk_catalog_name", pa.string()),
        pa.field("pk_db_schema_name", pa.string()),
        pa.field("pk_table_name", pa.string(), nullable=False),
        pa.field("pk_column_name", pa.string(), nullable=False),
        pa.field("fk_catalog_name", pa.string()),
        pa.field("fk_db_schema_name", pa.string()),
        pa.field("fk_table_name", pa.string(), nullable=False),
        pa.field("fk_column_name", pa.string(), nullable=False),
        pa.field("key_sequence", pa.int32(), nullable=False),
        pa.field("fk_key_name", pa.string()),
        pa.field("pk_key_name", pa.string()),
        pa.field("update_rule", pa.uint8(), nullable=False),
        pa.field("delete_rule", pa.uint8(), nullable=False),
    ]
)
SCHEMAS["CommandGetXdbcTypeInfo"] = types.SCHEMA
SCHEMAS |= dict.fromkeys(("CommandGetExportedKeys", "CommandGetImportedKeys", "CommandGetCrossReference"), _NO_KEYS)


def schema_of(message: Message) -> pa.Schema:
    """Return the schema of the answer to a metadata command."""
    schema = SCHEMAS[message.kind]
    if message.kind == "CommandGetTables" and message.flag(5):
        return schema.append(pa.field("table_schema", pa.binary(), nullable=False))
    return schema


def answer(message: Message, ask: Ask) -> pa.Table:
    """Return the answer to a metadata command; ``ask`` runs SQL for whoever asks."""
    schema = schema_of(message)
    match message.kind:
        case "CommandGetCatalogs":
            return pa.table([[CATALOG]], schema=schema)
        case "CommandGetDbSchemas":
            fits = _same(message.text(1), CATALOG) and _like(message.text(2), SCHEMA)
            return pa.table([[CATALOG], [SCHEMA]], schema=schema) if fits else schema.empty_table()
        case "CommandGetTableTypes":
            return pa.table([sorted({*TYPES.values(), OTHER_TYPE})], schema=schema)
        case "CommandGetTables":
            return _tables(message, ask, schema)
        case "CommandGetXdbcTypeInfo":
            # A number that is negative travels as its two's complement of 64 bits.
            numbers = [each - (1 << 64) if each >> 63 else each for each in message.numbers(1)]
            return types.types_table(numbers[-1] if numbers else None)
        case "CommandGetSqlInfo":
            return _properties(message.numbers(1), schema)
        case _:
            # Samples have no keys that were declared.
            return schema.empty_table()


def _tables(message: Message, ask: Ask, schema: pa.Schema) -> pa.Table:
    if not (_same(message.text(1), CATALOG) and _like(message.text(2), SCHEMA)):
        return schema.empty_table()
    wanted_types = message.texts(4)
    found = []
    for row in ask("SHOW TABLES", ()).to_pylist():
        kind = TYPES.get(row["kind"], OTHER_TYPE)
        if _like(message.text(3), row["name"]) and (not wanted_types or kind in wanted_types):
            found.append((row["name"], kind))
    found.sort()
    columns: list[Any] = [
        [CATALOG] * len(found),
        [SCHEMA] * len(found),
        [name for name, _ in found],
        [kind for _, kind in found],
    ]
    if message.flag(5):
        empty = (ask(f"SELECT * FROM {quoted(name)} LIMIT 0", ()) for name, _ in found)
        columns.append([each.schema.remove_metadata().serialize().to_pybytes() for each in empty])
    return pa.table(columns, schema=schema)


def _properties(wanted: Sequence[int], schema: pa.Schema) -> pa.Table:
    numbers = [number for number in PROPERTIES if not wanted or number in wanted]
    members: list[list[Any]] = [[] for _ in range(_VALUE.num_fields)]
    types, offsets = [], []
    for number in numbers:
        member, value = PROPERTIES[number]
        if number == 1:
            value = _version()
        types.append(member)
        offsets.append(len(members[member]))
        members[member].append(value)
    values = pa.UnionArray.from_dense(
        pa.array(types, pa.int8()),
        pa.array(offsets, pa.int32()),
        [pa.array(each, _VALUE.field(index).type) for index, each in enumerate(members)],
        [_VALUE.field(index).name for index in range(_VALUE.num_fields)],
    )
    return pa.table([pa.array(numbers, pa.uint32()), values], schema=schema)


def _version() -> str:
    try:
        return version("tidegauge")
    except PackageNotFoundError:
        return "unknown"


def _same(wanted: str | None, name: str) -> bool:
    return wanted is None or wanted == name


def _like(pattern: str | None, name: str) -> bool:
    """Tell whether a name fits a pattern in which ``%`` is any text and ``_`` any character; None fits all."""
    if pattern is None:
        return True
    parts = {"%": ".*", "_": "."}
    return re.fullmatch("".join(parts.get(each, re.escape(each)) for each in pattern), name, re.DOTALL) is not None
