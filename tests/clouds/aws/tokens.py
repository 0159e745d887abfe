"""Client tokens: the same call twice is one call, and a token that is used up stays used up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds.aws.errors import Ec2Error, invalid
from tests.clouds.aws.world import World

TOKEN_LENGTH = 64  # idem: "a unique, case-sensitive string of up to 64 ASCII characters"


@dataclass
class _Used:
    digest: str
    resource_ids: tuple[str, ...]
    until: float


class Tokens:
    """What each token of an action stood for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._used: dict[tuple[str, str], _Used] = {}

    def recall(self, action: str, params: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the ids that an earlier, equal call made; None when the token is new or absent.

        Raises:
            Ec2Error: The token is too long, or was used with other parameters (idem: IdempotentParameterMismatch).
        """
        token = params.get("ClientToken")
        if not token:
            return None
        if len(token) > TOKEN_LENGTH or not token.isascii():
            raise invalid(
                f"Value ({token}) for parameter clientToken is invalid. "
                f"The token must be at most {TOKEN_LENGTH} ASCII characters"
            )
        used = self._used.get((action, token))
        if used is None or self._world.now() >= used.until:
            return None
        if used.digest != _digest(params):
            raise mismatch(token)
        return used.resource_ids

    def remember(self, action: str, params: Mapping[str, Any], resource_ids: tuple[str, ...]) -> None:
        """Note what a call made."""
        if token := params.get("ClientToken"):
            # A token lives as long as what it made and some time longer: whatever deletes calls expire().
            self._used[action, token] = _Used(_digest(params), resource_ids, float("inf"))

    def expire(self, action: str, token: str) -> None:
        """Start the time after which a token of something that is gone may be used anew."""
        if used := self._used.get((action, token)):
            used.until = self._world.now() + self._world.settings.token_kept_s

    def clear(self) -> None:
        """Forget all tokens."""
        self._used.clear()


def mismatch(token: str) -> Ec2Error:
    """Return the error for a token that stands for something else, or for something that is gone."""
    return Ec2Error(
        "IdempotentParameterMismatch",
        f"The client token {token} was used with other parameters, or what it made is gone.",
    )


def _digest(params: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in params.items() if k not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=repr).encode()).hexdigest()
