"""Settings: environment `DNNAMO_*`, then `config.toml` in the data folder, then the default."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from dnnamo.errors import UsageError

__all__ = ["Settings", "load_settings", "masked", "sources"]


def _home() -> Path:
    return Path(os.environ.get("DNNAMO_HOME") or user_data_path("dnnamo")).expanduser().absolute()


class Settings(BaseSettings):
    """What a Dnnamo process needs to know about the place that it runs in."""

    model_config = SettingsConfigDict(env_prefix="DNNAMO_", env_ignore_empty=True, extra="forbid")

    home: Path = Field(default_factory=_home, description="Data folder.")
    database_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database; a SQLite file in the data folder if not set."
    )
    broker_url: SecretStr | None = Field(
        default=None, description="Redis URL of the Celery broker; jobs run in the calling process if not set."
    )
    drain_s: float = Field(
        default=20.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that a stopping worker gives its jobs before it hands them back.",
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment before the file in the data folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _home() / "config.toml")

    @cached_property
    def database(self) -> str:
        """The database's URL, the default filled in."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'dnnamo.db'}"

    @property
    def broker(self) -> str | None:
        """The broker's URL; None for embedded mode."""
        return self.broker_url.get_secret_value() if self.broker_url else None


def load_settings() -> Settings:
    """Return the settings of this process, read afresh.

    Raises:
        UsageError: If a variable or the file holds a value that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise UsageError("\n".join(_complaint(e) for e in error.errors(include_input=False))) from None
    except ValueError as error:
        raise UsageError(f"{_home() / 'config.toml'} is not a TOML file that can be read: {error}") from error


def sources() -> dict[str, str]:
    """Return where each setting's value comes from: a variable of the environment, a file, or `default`."""
    path = _home() / "config.toml"
    in_file = TomlConfigSettingsSource(Settings, path)()
    variables = {name: f"DNNAMO_{name.upper()}" for name in Settings.model_fields}
    return {
        name: variable if os.environ.get(variable) else str(path) if name in in_file else "default"
        for name, variable in variables.items()
    }


def masked(url: str) -> str:
    """Return a URL with its password hidden."""
    if "://" not in url:  # nothing says where a password would begin
        return "***"
    # To the last @, as people forget to quote passwords. A SQLite path begins with the third slash.
    url = re.sub(r"(?<=://)([^/@:?]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*password)=[^&]*", r"\1=***", url)


def _complaint(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    return f"Setting {name} (DNNAMO_{name.upper()} or config.toml) cannot be used: {error['msg']}."
