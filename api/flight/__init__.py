"""Arrow Flight SQL: answers to SQL as Arrow streams over gRPC, for ADBC and JDBC drivers and what is built on them.

``protobuf`` reads and writes the messages' encoding, ``messages`` the messages, ``metadata`` answers what there is,
``server`` serves.
"""
