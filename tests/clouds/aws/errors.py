"""The errors that the double answers with, in EC2's words."""

from __future__ import annotations

from xml.sax.saxutils import escape


class Ec2Error(Exception):
    """An error of EC2's: its code, its text, and the HTTP status that carries it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status

    def xml(self, request_id: str) -> bytes:
        """Return the error as EC2 writes it."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
            f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        ).encode()


def invalid(message: str) -> Ec2Error:
    """Return InvalidParameterValue, the error for a value that is out of its bounds."""
    return Ec2Error("InvalidParameterValue", message)


def combination(message: str) -> Ec2Error:
    """Return InvalidParameterCombination, the error for parameters that exclude each other."""
    return Ec2Error("InvalidParameterCombination", message)


def missing(name: str) -> Ec2Error:
    """Return MissingParameter for a parameter that must be there."""
    return Ec2Error("MissingParameter", f"The request must contain the parameter {name}")


def not_modelled(what: str) -> Ec2Error:
    """Return the error for what EC2 can and the double cannot: loud, so that no test passes by accident."""
    return Ec2Error("UnsupportedOperation", f"{what} is not modelled by the double in tests/clouds/aws: add it there")


# The code that EC2 has for an unknown id, by the id's prefix (errors).
NOT_FOUND = {
    "vol": ("InvalidVolume.NotFound", "The volume '{0}' does not exist."),
    "i": ("InvalidInstanceID.NotFound", "The instance ID '{0}' does not exist"),
    "snap": ("InvalidSnapshot.NotFound", "The snapshot '{0}' does not exist."),
    "ami": ("InvalidAMIID.NotFound", "The image id '[{0}]' does not exist"),
    "subnet": ("InvalidSubnetID.NotFound", "The subnet ID '{0}' does not exist"),
    "sg": ("InvalidGroup.NotFound", "The security group '{0}' does not exist"),
}

MALFORMED = {
    "vol": "InvalidVolumeID.Malformed",
    "i": "InvalidInstanceID.Malformed",
    "snap": "InvalidSnapshotID.Malformed",
}


def not_found(resource_id: str) -> Ec2Error:
    """Return the error for an id that names nothing (any more, or yet)."""
    prefix = resource_id.partition("-")[0]
    code, text = NOT_FOUND.get(prefix, ("InvalidID", "The ID '{0}' is not valid"))
    return Ec2Error(code, text.format(resource_id))


def malformed(resource_id: str, prefix: str) -> Ec2Error:
    """Return the error for an id that is not even one."""
    return Ec2Error(MALFORMED[prefix], f'Invalid id: "{resource_id}" (expecting "{prefix}-...")')
