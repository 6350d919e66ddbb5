"""The types that columns of relations have, as drivers of ODBC and JDBC ask for them.

Source of columns and numbers: FlightSql.proto, CommandGetXdbcTypeInfo and the enums XdbcDataType, Nullable, Searchable.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_NULLABLE, _SEARCHABLE = 1, 3
_DATETIME, _TIMESTAMP_SUBCODE = 9, 3

SCHEMA = pa.schema(
    [
        pa.field("type_name", pa.string(), nullable=False),
        pa.field("data_type", pa.int32(), nullable=False),
        pa.field("column_size", pa.int32()),
        pa.field("literal_prefix", pa.string()),
        pa.field("literal_suffix", pa.string()),
        pa.field("create_params", pa.list_(pa.field("item", pa.string(), nullable=False))),
        pa.field("nullable", pa.int32(), nullable=False),
        pa.field("case_sensitive", pa.bool_(), nullable=False),
        pa.field("searchable", pa.int32(), nullable=False),
        pa.field("unsigned_attribute", pa.bool_()),
        pa.field("fixed_prec_scale", pa.bool_(), nullable=False),
        pa.field("auto_increment", pa.bool_()),
        pa.field("local_type_name", pa.string()),
        pa.field("minimum_scale", pa.int32()),
        pa.field("maximum_scale", pa.int32()),
        pa.field("sql_data_type", pa.int32(), nullable=False),
        pa.field("datetime_subcode", pa.int32()),
        pa.field("num_prec_radix", pa.int32()),
        pa.field("interval_precision", pa.int32()),
    ]
)

#: (type_name, data_type, what differs), in the order of data_type.
_TYPES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("BOOLEAN", -7, {"column_size": 1}),
    ("BIGINT", -5, {"column_size": 19, "num_prec_radix": 10, "unsigned_attribute": False, "auto_increment": False}),
    ("INTEGER", 4, {"column_size": 10, "num_prec_radix": 10, "unsigned_attribute": False, "auto_increment": False}),
    ("DOUBLE", 8, {"column_size": 53, "num_prec_radix": 2, "unsigned_attribute": False, "auto_increment": False}),
    ("VARCHAR", 12, {"literal_prefix": "'", "literal_suffix": "'", "case_sensitive": True}),
    (
        "TIMESTAMP_NS",
        93,
        {
            "column_size": 29,
            "literal_prefix": "'",
            "literal_suffix": "'",
            "sql_data_type": _DATETIME,
            "datetime_subcode": _TIMESTAMP_SUBCODE,
            "minimum_scale": 9,
            "maximum_scale": 9,
        },
    ),
)


def types_table(data_type: int | None) -> pa.Table:
    """Return the types, or those with one number."""
    rows = []
    for name, number, differing in _TYPES:
        if data_type in (None, number):
            row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
            row |= {"type_name": name, "local_type_name": name, "data_type": number, "sql_data_type": number}
            row |= {
                "nullable": _NULLABLE,
                "searchable": _SEARCHABLE,
                "case_sensitive": False,
                "fixed_prec_scale": False,
            }
            rows.append(row | differing)
    return pa.Table.from_pylist(rows, SCHEMA)
