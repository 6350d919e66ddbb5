"""Where one SQL statement ends and the next begins."""

from __future__ import annotations

import re

# What a semicolon may hide in: texts, quoted names, dollar-quoted texts and comments, whole or cut off by
# the end.
_PIECE = re.compile(
    r"'(?:[^']|'')*(?:'|\Z)"
    r'|"(?:[^"]|"")*(?:"|\Z)'
    r"|(?P<tag>\$\w*\$).*?(?:(?P=tag)|\Z)"
    r"|--[^\n]*"
    r"|/\*.*?(?:\*/|\Z)"
    r"|;"
    r"|[^'\"$/;-]+"
    r"|.",
    re.DOTALL,
)
_COMMENT = re.compile(r"\A(?:--|/\*)")


def split_statements(text: str) -> list[str]:
    """Return the statements of ``text`` without their semicolons; what is nothing but comments is left out."""
    statements: list[str] = []
    current, has_code = "", False
    for piece in _PIECE.finditer(text):
        part = piece[0]
        if part == ";":
            if has_code:
                statements.append(current.strip())
            current, has_code = "", False
            continue
        current += part
        has_code = has_code or (bool(part.strip()) and not _COMMENT.match(part))
    if has_code:
        statements.append(current.strip())
    return statements


def code_of(text: str) -> str:
    """Return a statement without what stands in quotes and comments."""
    code = ""
    for piece in _PIECE.finditer(text):
        part = piece[0]
        if _COMMENT.match(part):
            code += " "
        else:
            code += "''" if part[0] in "'\"" or piece["tag"] else part
    return code


def is_finished(text: str) -> bool:
    """Tell whether the last statement of ``text`` is ended, with only white space and comments after it."""
    ended = False
    for piece in _PIECE.finditer(text):
        part = piece[0]
        if part == ";":
            ended = True
        elif part.strip() and not _COMMENT.match(part):
            ended = False
    return ended
