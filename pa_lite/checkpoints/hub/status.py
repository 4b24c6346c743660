"""Whether the Hub can be reached, and whether a token is set, in a few seconds."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass

from pa_lite.checkpoints.hub.references import endpoint
from pa_lite.checkpoints.hub.repositories import is_offline

_TIMEOUT = 4.0  # seconds


@dataclass(frozen=True, kw_only=True)
class HubStatus:
    """The Hub's address, whether it answers (None offline, where it is not asked), why not, and whether a token is set.

    A token is not sent, and so not checked.
    """

    endpoint: str
    answers: bool | None
    reason: str
    has_token: bool


def hub_status(timeout: float = _TIMEOUT) -> HubStatus:
    """Ask the Hub for an answer, with a time limit in seconds. Raises InputError for an invalid HF_ENDPOINT."""
    from huggingface_hub import get_token

    address, reason = endpoint(), ""
    answers = None if is_offline() else True
    if answers:
        try:
            request = urllib.request.Request(f"{address}/api/models?limit=1", method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout):
                pass
        except urllib.error.HTTPError as e:
            answers, reason = e.code < 500, f"HTTP status {e.code}"
        except (OSError, ValueError) as e:
            answers, reason = False, str(getattr(e, "reason", None) or e)
    return HubStatus(endpoint=address, answers=answers, reason="" if answers else reason, has_token=bool(get_token()))
