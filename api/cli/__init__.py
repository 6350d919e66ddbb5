"""The command ``tidegauge``: one module for each subcommand, imported only when it was called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.errors import BadConfig, BadInput

if TYPE_CHECKING:
    from engine.config import Config

DEFAULT_DATA = "./tidegauge-data"
DEFAULT_URL = "http://127.0.0.1:8433"
TOKEN_VARIABLE = "TIDEGAUGE_TOKEN"


class WrongUse(BadInput):
    """The command line cannot be meant as it stands: one sentence on standard error, exit code 2."""

    code = "wrong_use"


def config_of(path: str | None) -> Config:
    """Return the configuration in the file ``path``, the defaults for None.

    Raises WrongUse when there is no such file, BadConfig for what is wrong in it.
    """
    from engine.config import Config, load_config, read_config_text

    if path is None:
        return Config()
    try:
        read_config_text(path)
    except BadConfig as error:
        raise WrongUse(error.message) from None
    return load_config(path)


def token_of(given: str | None, *, file: str | None = None) -> str | None:
    """Return the token of the command line, else of the environment, else in ``file``; None without any."""
    token = given or os.environ.get(TOKEN_VARIABLE)
    if not token and file is not None:
        try:
            with open(file, encoding="utf-8") as opened:
                token = opened.read().strip()
        except OSError as error:
            raise WrongUse(f"cannot read token file {file}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise WrongUse(f"cannot read token file {file}: it is not text") from None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise WrongUse("cannot use the token: want printable ASCII without spaces")
    return token or None
