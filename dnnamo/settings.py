"""Settings: environment `DNNAMO_*`, then `config.toml` in the data folder, then the default."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dnnamo.errors import UsageError
from dnnamo.sizes import parse_size

__all__ = ["Settings", "load_settings", "masked", "sources"]


def _home() -> Path:
    return Path(os.environ.get("DNNAMO_HOME") or user_data_path("dnnamo")).expanduser().absolute()


def _in_bytes(size: Any) -> Any:
    return parse_size(size) if isinstance(size, str) else size


_Size = Annotated[int, Field(ge=1), BeforeValidator(_in_bytes)]
_Paths = Annotated[tuple[Path, ...], NoDecode]  # not JSON in the environment, but written as PATH is


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
    memory_limit: _Size | None = Field(
        default=None, description="Resident memory that the processes of a job may have together, as in 8GiB."
    )
    output_limit: _Size = Field(
        default=2**30, description="What a job may write to standard output and error, as in 500MB."
    )
    scratch_limit: _Size = Field(
        default=10 * 2**30, description="Size that the scratch folder of a job may reach, as in 10GiB."
    )
    bundle_limit: _Size = Field(
        default=16 * 2**20, description="Size that the files may have which go with a job, as in 16MiB."
    )
    time_limit_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Seconds that an attempt at a job may take."
    )
    process_limit: int = Field(default=1000, ge=1, description="Processes that a job may have at once.")
    pythons: _Paths = Field(
        default=(),
        description="Interpreters that a job may name, absolute paths; none but the worker's own if not set.",
    )
    model_roots: _Paths = Field(
        default=(), description="Folders that model files must lie under, absolute paths; anywhere if not set."
    )

    locks: Path = Field(
        default=Path("/tmp/dnnamo-locks"),  # noqa: S108 (opened so that nobody can plant anything)
        description="Folder of the locks of cores and GPUs, the same for all workers of a machine.",
    )

    @field_validator("home", "locks")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @field_validator("pythons", "model_roots", mode="before")
    @classmethod
    def _listed(cls, paths: Any) -> Any:
        if not isinstance(paths, str):
            return paths
        found = [path for path in paths.split(os.pathsep) if path]
        if not found:  # and not "anywhere", which nobody means who sets it
            raise ValueError("there is no path in it")
        return found

    @field_validator("pythons", "model_roots")
    @classmethod
    def _from_the_root(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        # Refused and not made absolute: what is allowed must not depend on the folder that a worker is started in.
        expanded = tuple(Path(os.path.expanduser(path)) for path in paths)  # noqa: PTH111 (leaves unknown users as they are)
        if relative := [str(path) for path in expanded if not path.is_absolute()]:
            raise ValueError(f"{', '.join(relative)} must be absolute, beginning with / or ~/")
        return expanded

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
    def own_files(self) -> list[Path]:
        """The data folder and what Dnnamo keeps in it, which may lie in it or elsewhere: passwords, for example."""
        kind, _, path = self.database.partition(":///")
        database = [Path(path.partition("?")[0])] if kind.startswith("sqlite") and path else []
        kept = [self.home / name for name in ("config.toml", "dnnamo.db", "cache")]
        journals = [Path(f"{file}{ending}") for file in database for ending in ("-wal", "-shm", "-journal")]
        return [self.home, *kept, *database, *journals]

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
    name = error["loc"][0]
    why = error["msg"].removeprefix("Value error, ")
    return f"Setting {name} (DNNAMO_{name.upper()} or config.toml) cannot be used: {why}."
