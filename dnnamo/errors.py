"""The one error tree.

Every error that Dnnamo raises on purpose is a `DnnamoError`. Each class also inherits the builtin that callers
would expect, and carries the exit code that the command line ends with.

```
DnnamoError                     exit code 1
├── UsageError (ValueError)     exit code 2: what was asked for makes no sense, nothing was started
│   ├── ModelNotFound (LookupError)
│   ├── JobNotFound (LookupError)
│   └── MissingExtra (ImportError)
├── ModelError                  exit code 1: the user's model is at fault; a job ends with cause `user_error`
│   ├── LoaderError
│   ├── WeightsError (ValueError)
│   ├── NoSuchIntermediate (LookupError)
│   └── NonFiniteLoss (ArithmeticError)
├── Unsupported (NotImplementedError)   exit code 1: model or machine lacks what was asked; cause `unsupported`
├── BundleError                 exit code 1: the code that came with a job cannot be used; cause `bad_bundle`
├── OverBudget (ValueError)     exit code 1: what a job was to keep is larger than it may be; cause `user_error`
├── JobFailed (RuntimeError)    exit code 1: a job ended, and not as succeeded
└── InfrastructureError         exit code 3: nothing wrong with the request, but it cannot be carried out now
    ├── DatabaseUnavailable (ConnectionError)
    ├── SchemaMismatch
    └── BrokerUnavailable (ConnectionError)
```
"""

from typing import ClassVar

__all__ = [
    "BrokerUnavailable",
    "BundleError",
    "DatabaseUnavailable",
    "DnnamoError",
    "InfrastructureError",
    "JobFailed",
    "JobNotFound",
    "LoaderError",
    "MissingExtra",
    "ModelError",
    "ModelNotFound",
    "NoSuchIntermediate",
    "NonFiniteLoss",
    "OverBudget",
    "SchemaMismatch",
    "Unsupported",
    "UsageError",
    "WeightsError",
]


class DnnamoError(Exception):
    """Root of everything Dnnamo raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(DnnamoError, ValueError):
    """Raised when a request makes no sense as it stands; nothing was started or stored."""

    exit_code = 2


class ModelNotFound(UsageError, LookupError):
    """Raised when a model reference leads to no file, module or known name."""


class JobNotFound(UsageError, LookupError):
    """Raised when no job has the id asked for.

    Attributes:
        job_id: The id that was asked for.
    """

    def __init__(self, job_id: int) -> None:
        super().__init__(f"There is no job {job_id} in this database. `dnnamo ls` lists the jobs that there are.")
        self.job_id = job_id


class MissingExtra(UsageError, ImportError):
    """Raised when an optional part of Dnnamo is needed and not installed.

    Attributes:
        extra: The extra that brings it, as in `pip install 'dnnamo[extra]'`.
    """

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} is not installed here. Install it with: pip install 'dnnamo[{extra}]'")
        self.extra = extra


class ModelError(DnnamoError):
    """Raised when the user's model is at fault."""


class LoaderError(ModelError):
    """Raised when a model's loader is missing, refuses its options, or returns something that is no model."""


class WeightsError(ModelError, ValueError):
    """Raised when weights have an unknown key or a wrong shape; no weight was changed."""


class NoSuchIntermediate(ModelError, LookupError):
    """Raised when a key stands for no array within a model."""


class NonFiniteLoss(ModelError, ArithmeticError):
    """Raised when a training step's loss is infinite or not a number.

    Attributes:
        step: The step, counted from 0 within its phase.
    """

    def __init__(self, loss: float, *, step: int, phase: str) -> None:
        super().__init__(
            f"The loss of {phase} step {step} is {loss}, so the steps after it would measure a network that no longer "
            "learns. Lower the learning rate, or check the model's inputs for values that are not finite."
        )
        self.step = step


class Unsupported(DnnamoError, NotImplementedError):
    """Raised when the model, its framework or this machine lacks what a job asks for."""


class BundleError(DnnamoError):
    """Raised when the code that came with a job is not what was sent, or no plain files; none of it was unpacked."""


class OverBudget(DnnamoError, ValueError):
    """Raised when what a job was to keep is larger than it may be."""


class JobFailed(DnnamoError, RuntimeError):
    """Raised when the outcome of a job is asked for and the job did not succeed.

    Attributes:
        job_id: The job.
        state: The state that it ended in, `failed` or `cancelled`.
        cause: Why, as stored: `user_error`, `timeout`, `signal`, ...
    """

    def __init__(self, job_id: int, *, state: str, cause: str | None, message: str | None) -> None:
        why = f" ({cause})" if cause and cause != state else ""
        super().__init__(f"Job {job_id} {state}{why}: {message or 'no message was recorded'}")
        self.job_id = job_id
        self.state = state
        self.cause = cause


class InfrastructureError(DnnamoError):
    """Raised when the database or the broker cannot be used."""

    exit_code = 3


class DatabaseUnavailable(InfrastructureError, ConnectionError):
    """Raised when the database does not answer."""


class SchemaMismatch(InfrastructureError):
    """Raised when a database holds a schema that this version of Dnnamo does not know."""


class BrokerUnavailable(InfrastructureError, ConnectionError):
    """Raised when the Celery broker does not answer."""
