"""What a process asks of its own settings before it begins: the rules that need no connection."""

from veltrix.doctor.examine import examine
from veltrix.doctor.facts.platform_settings import PlatformSettings, settings_in_effect
from veltrix.doctor.rule import Severity
from veltrix.doctor.rules import platform_settings
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import SettingsError
from veltrix.settings.rules import accepted_findings
from veltrix.telemetry import logger

_log = logger("doctor")


def check_start(settings: Settings) -> None:
    """Say what is accepted, with its reason. Raises SettingsError for a loss that is not."""
    accepted = accepted_findings(settings.doctor_accepted)
    for id_, reason in accepted.items():
        _log.warning("finding.accepted", id=id_, reason=reason)
    found = examine(
        platform_settings.rules, {PlatformSettings: lambda: settings_in_effect(settings)}, accepted
    )
    refused = [
        f"{one.id}: {one.title}: {one.found} ({one.origin}). {one.why} Cure: {one.cure}; or accept"
        f" it, with a reason that is said at every start: {PREFIX}DOCTOR_ACCEPTED={one.id}=..."
        for one in found.at_least(Severity.LOSS)
    ]
    if refused:
        raise SettingsError(refused)
