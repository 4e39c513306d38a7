"""The settings of this deployment as they are in effect, each with where it comes from."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import effective

_OPTION = re.compile(r"(?:-c\s*|--)([\w.]+)=((?:\\.|\S)+)")


class PlatformSettings(msgspec.Struct, frozen=True):
    """The settings of a process. `origins` says of each variable where it was set."""

    settings: Settings
    origins: dict[str, str]

    def told(self, name: str) -> str:
        """The setting as it would be written; not for secrets."""
        return f"{PREFIX}{name.upper()} = {getattr(self.settings, name)}"

    def origin(self, name: str) -> str:
        """Where its value comes from."""
        return self.origins.get(f"{PREFIX}{name.upper()}", "default")

    def session_options(self, name: str) -> dict[str, str]:
        """What the URL of this setting asks PostgreSQL to set in each session."""
        url = getattr(self.settings, name)
        if url is None:
            return {}
        options = parse_qs(urlsplit(url.get_secret_value()).query).get("options", ())
        return {key.lower(): value for text in options for key, value in _OPTION.findall(text)}


def settings_in_effect(settings: Settings, dev_file: Path | None = None) -> PlatformSettings:
    """What is known of them; asks nobody."""
    rows = effective(settings, dev_file=dev_file)
    return PlatformSettings(settings, {name: origin for name, _, origin in rows})
