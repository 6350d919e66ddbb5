"""The write path: bytes of some protocol become admitted rows, a log record, and then an acknowledgement."""
