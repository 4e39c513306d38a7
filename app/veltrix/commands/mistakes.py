"""What can be wrong when a command runs, in sentences for the person who typed it.

Nothing heavy is imported until something went wrong: `veltrix --help` stays quick.
"""


class CommandRefused(Exception):
    """The command cannot do this; the message says why and what would work."""


def sentences_of(error: BaseException) -> list[str] | None:
    """A sentence with its cure for each mistake; None for an error that nobody expected."""
    if isinstance(error, CommandRefused):
        return [str(error)]
    from veltrix.client.errors import ApiError

    if isinstance(error, ApiError):
        return [str(error)]
    from veltrix.settings.load import SettingsError

    if isinstance(error, SettingsError):
        return error.mistakes
    return _of_ours(error) or _of_database(error) or _of_broker(error)


def _of_ours(error: BaseException) -> list[str] | None:
    from veltrix.access.audit_check import ChainRefused
    from veltrix.access.keys import KeyRefused
    from veltrix.archive.manifest import ArchiveBroken, ArchiveRefused
    from veltrix.authoring.definitions import DefinitionError
    from veltrix.dev.children import CannotStart
    from veltrix.operations.retention.drop import DropHeldUp
    from veltrix.operations.retention.rules import PolicyRefused
    from veltrix.releases.subscription_rows import SuffixTaken
    from veltrix.store.grants import RolesRefused
    from veltrix.store.history.split import SplitHeldUp
    from veltrix.store.schema import SchemaError

    expected = (
        ArchiveBroken,
        ArchiveRefused,
        CannotStart,
        ChainRefused,
        DefinitionError,
        DropHeldUp,
        KeyRefused,
        PolicyRefused,
        RolesRefused,
        SchemaError,
        SplitHeldUp,
        SuffixTaken,
    )
    if isinstance(error, expected):
        return str(error).splitlines()
    # By name: these modules load FastAPI and the sweep, and an error of theirs has them loaded.
    if type(error).__name__ in {"StartRefused", "UnknownWorkflow"}:
        return [str(error)]
    return None


def _of_database(error: BaseException) -> list[str] | None:
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from veltrix.store.transactions import is_away, sqlstate_of

    if not isinstance(error, DBAPIError | psycopg.Error):
        return None
    if sqlstate_of(error) in {"42P01", "42703"}:
        return ["the database does not have this version's tables; run `veltrix db upgrade`"]
    if sqlstate_of(error) == "42501":
        why = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()[0]
        cure = "`veltrix db grants` says what a role needs; `veltrix db` itself takes the owner's"
        return [f"the database's role may not do this ({why}); {cure} VELTRIX_DATABASE_OWNER_URL"]
    if is_away(error):
        original = error.orig if isinstance(error, DBAPIError) else error
        why = str(original).strip().splitlines()[0]
        cure = "start it, or see where it is looked for with `veltrix config`"
        return [f"the database cannot be reached ({why}); {cure}"]
    return None


def _of_broker(error: BaseException) -> list[str] | None:
    from veltrix.broker.connect import BrokerAway
    from veltrix.broker.topology import TopologyRefused

    if isinstance(error, TopologyRefused):
        return [str(change) for change in error.changes]
    if isinstance(error, BrokerAway):
        return [f"RabbitMQ cannot be reached: {error}"]
    if type(error).__name__ == "ManagementRefused":
        return [f"RabbitMQ's management API refuses: {error}"]
    return None
