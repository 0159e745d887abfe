"""Credentials that are no longer good: what gives them out is asked again, and what it gives is used."""

from __future__ import annotations

import pytest
from google.auth.credentials import AnonymousCredentials

from airflow_rankvol.backends import _gcp_connection as connection
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.errors import AuthDenied, ConfigError, CredentialsRefused
from tests.clouds.gcp.backend.kit import Lab

EVERYTHING = Selector("lab")


class Machine:
    """What gives credentials out: the n-th time the n-th ones."""

    def __init__(self) -> None:
        self.given: list[AnonymousCredentials] = []
        self.broken = False

    def sign_in(self, _settings: object) -> tuple[AnonymousCredentials, str]:
        if self.broken:
            raise ConfigError("the key's file is being written")
        self.given.append(AnonymousCredentials())  # type: ignore[no-untyped-call]
        return self.given[-1], "rankvol-test"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(connection, "_sign_in", machine.sign_in)
    return machine


def refused(lab: Lab, error: type[AuthDenied] = CredentialsRefused) -> None:
    with pytest.raises(error) as caught:
        lab.backend.list_owned(EVERYTHING)
    assert type(caught.value) is error


def used(lab: Lab) -> list[object]:
    """Return the credentials of the sessions that wait for the next call."""
    return [session.credentials for session in lab.connection._idle]


def test_credentials_that_are_refused_are_read_anew_with_the_next_call(lab: Lab, machine: Machine) -> None:
    """A key's file may have been replaced; no call goes out by the old key any more."""
    lab.backend.list_owned(EVERYTHING)
    lab.double("credentials", state="invalid")
    refused(lab)
    refused(lab)
    lab.double("credentials", state="ok")
    lab.backend.list_owned(EVERYTHING)
    assert len(machine.given) == 2  # many refusals at once are one reason
    assert set(used(lab)) == {machine.given[1]}


def test_a_right_that_is_missing_may_be_that_of_a_newer_key(lab: Lab, machine: Machine) -> None:
    lab.double("deny", actions=["compute.disks.list"])
    refused(lab, AuthDenied)
    lab.double("deny", actions=[])
    lab.backend.list_owned(EVERYTHING)
    assert len(machine.given) == 2


def test_a_key_that_cannot_be_read_while_it_is_written_is_no_error_of_its_own(
    lab: Lab, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger waits for credentials; a connection that is wrong would end its task."""
    monkeypatch.setattr(connection, "ANEW_S", 0.0)
    lab.double("credentials", state="invalid")
    refused(lab)
    machine.broken = True
    refused(lab)
    machine.broken = False
    lab.double("credentials", state="ok")
    lab.backend.list_owned(EVERYTHING)
    assert len(machine.given) == 2
