"""What AWS answers, as errors of our tree: one table of codes, each with its next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto

from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    ConfigError,
    CredentialsRefused,
    FinalError,
    NoCapacity,
    NotReady,
    QuotaExceeded,
    RankVolError,
    RetryableError,
    Throttled,
    VolumeBusy,
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means to the engine, and what a person can do about it."""

    error: type[BackendError]
    step: str = ""


_SLOW = Meaning(Throttled, "It is tried again; other jobs of this account may use up its request rate")
_AGAIN = Meaning(RetryableError, "It is tried again")
_SOON = Meaning(NotReady, "It is tried again")
_CREDENTIALS = Meaning(
    CredentialsRefused,
    "The credentials of the connection are not valid: renew them, or let the connection use a role "
    "(role_arn, profile_name, an instance or pod identity)",
)
_RIGHT = Meaning(AuthDenied, "Give the connection's identity this right; docs/aws.md has a policy with all of them")
_CAPACITY = Meaning(
    NoCapacity,
    "Name several machine types (machine_type='m7i.large, m6i.large'), other zones, or drop spot",
)
_QUOTA = "Ask for more in the console of Service Quotas, use less at once, or free what is left (`rankvol ls`)"
_GONE = Meaning(FinalError, "It does not exist in this region and account; look at the connection's region_name")
_NO_BUCKET = Meaning(FinalError, "Name a bucket that exists in the connection's region")
_OTHER_REGION = Meaning(FinalError, "The bucket lies in another region; name one of the connection's region_name")
_ASKED = Meaning(FinalError, "Correct the job's templates; `rankvol plan` shows them")

#: Codes from the Amazon EC2 API Reference, "Error codes", and from STS' and SSM's common errors.
TABLE: dict[str, Meaning] = {
    # Too fast.
    **dict.fromkeys(("Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded"), _SLOW),
    **dict.fromkeys(("RequestThrottled", "TooManyRequestsException", "EC2ThrottledException", "SlowDown"), _SLOW),
    **dict.fromkeys(("SnapshotCreationPerVolumeRateExceeded", "VolumeModificationRateExceeded"), _SLOW),
    # The cloud's own trouble.
    **dict.fromkeys(("InternalError", "InternalFailure", "InternalServerError", "ServerInternal"), _AGAIN),
    **dict.fromkeys(("ServiceUnavailable", "ServiceUnavailableException", "Unavailable", "RequestTimeout"), _AGAIN),
    **dict.fromkeys(("DependencyViolation", "ConcurrentTagAccess", "IDPCommunicationError"), _AGAIN),
    # Nothing to be had now.
    **dict.fromkeys(("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"), _CAPACITY),
    **dict.fromkeys(("InsufficientReservedInstanceCapacity", "SpotCapacityNotAvailable"), _CAPACITY),
    "UnfulfillableCapacity": _CAPACITY,
    "InsufficientVolumeCapacity": Meaning(NoCapacity, "Use another zone or another volume type"),
    "SpotMaxPriceTooLow": Meaning(NoCapacity, "Raise max_price, or leave it out to pay up to the on-demand price"),
    "InsufficientFreeAddressesInSubnet": Meaning(NoCapacity, "The subnet has no address left; name another one"),
    "InsufficientAddressCapacity": Meaning(NoCapacity, "The region has no address left"),
    # Quotas.
    "VcpuLimitExceeded": Meaning(QuotaExceeded, f"The quota of vCPUs of this machine family is used up. {_QUOTA}"),
    "InstanceLimitExceeded": Meaning(QuotaExceeded, f"The quota of instances is used up. {_QUOTA}"),
    "MaxSpotInstanceCountExceeded": Meaning(QuotaExceeded, f"The quota of spot vCPUs is used up. {_QUOTA}"),
    "VolumeLimitExceeded": Meaning(QuotaExceeded, f"The storage quota of this volume type is used up. {_QUOTA}"),
    "MaxIOPSLimitExceeded": Meaning(QuotaExceeded, f"The quota of provisioned IOPS is used up. {_QUOTA}"),
    "SnapshotLimitExceeded": Meaning(QuotaExceeded, _QUOTA),
    "ResourceLimitExceeded": Meaning(QuotaExceeded, _QUOTA),
    "RequestResourceCountExceeded": Meaning(QuotaExceeded, "Too many resources in one call"),
    "TagLimitExceeded": Meaning(QuotaExceeded, "A resource takes 50 tags; take some of the template's away"),
    "AttachmentLimitExceeded": Meaning(
        FinalError, "The machine type takes no more volumes; use a larger one, or fewer mounts per rank"
    ),
    # Rights and credentials.
    **dict.fromkeys(("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"), _RIGHT),
    **dict.fromkeys(("Client.UnauthorizedOperation", "Blocked", "OptInRequired"), _RIGHT),
    **dict.fromkeys(("AuthFailure", "ExpiredToken", "ExpiredTokenException", "RequestExpired"), _CREDENTIALS),
    **dict.fromkeys(("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"), _CREDENTIALS),
    **dict.fromkeys(("SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken"), _CREDENTIALS),
    # STS, of a web identity's token.
    **dict.fromkeys(("InvalidIdentityToken", "IDPRejectedClaim"), _CREDENTIALS),
    "CustomerKeyHasBeenRevoked": Meaning(
        AuthDenied,
        "Enable the key that the volume is encrypted with, and give the connection's identity the rights on it that "
        "docs/aws.md lists for kms_key",
    ),
    "PendingVerification": Meaning(AuthDenied, "AWS is still verifying the account; that ends by itself"),
    # Volumes and nodes on their way.
    "VolumeInUse": Meaning(VolumeBusy, "It is attached; it is tried again until it is free"),
    **dict.fromkeys(("IncorrectState", "IncorrectInstanceState", "IncorrectStateException"), _SOON),
    **dict.fromkeys(("InvalidVolume.NotFound", "InvalidInstanceID.NotFound", "InvalidID"), _SOON),
    **dict.fromkeys(("InvalidAttachment.NotFound", "ResourceNotReady", "InvocationDoesNotExist"), _SOON),
    # What was asked for cannot be.
    "InvalidVolume.ZoneMismatch": Meaning(
        FinalError, "A volume attaches only to a node of its own zone; set NodeTemplate.zones to the volume's"
    ),
    "IdempotentParameterMismatch": Meaning(
        FinalError, "The same call was made with other values before. Clear create_volumes, or this rank"
    ),
    "IdempotentInstanceTerminated": Meaning(
        FinalError, "The same call has launched a node before, which has ended since. Clear this rank"
    ),
    "Unsupported": Meaning(FinalError, "This machine type is not offered there; name other zones or machine types"),
    "UnsupportedOperation": _ASKED,
    "OperationNotPermitted": Meaning(
        FinalError, "Switch its protection off (termination or stop protection), then clear this task"
    ),
    "VPCIdNotSpecified": Meaning(FinalError, "The region has no default VPC; set NodeTemplate.subnets"),
    "MissingInput": Meaning(FinalError, "The zone has no default subnet; set NodeTemplate.subnets"),
    "ParameterNotFound": Meaning(FinalError, "No such public SSM parameter in this region; correct NodeTemplate.image"),
    "InvalidSubnet": _GONE,
    **dict.fromkeys(("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"), _GONE),
    **dict.fromkeys(("InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed", "InvalidKeyPair.NotFound"), _GONE),
    **dict.fromkeys(("InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidSecurityGroupID.NotFound"), _GONE),
    **dict.fromkeys(("InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", "InvalidZone.NotFound"), _GONE),
    **dict.fromkeys(("InvalidParameterValue", "InvalidParameterCombination", "InvalidParameter"), _ASKED),
    **dict.fromkeys(("MissingParameter", "InvalidParameterDependency", "InvalidInstanceType"), _ASKED),
    "ValidationError": _ASKED,
    # S3 (S3 API Reference, "Error responses"); a HEAD has no body, so its status stands for the code.
    "403": _RIGHT,
    **dict.fromkeys(("404", "NoSuchBucket"), _NO_BUCKET),
    **dict.fromkeys(("301", "PermanentRedirect", "AuthorizationHeaderMalformed"), _OTHER_REGION),
    "InvalidBucketName": _NO_BUCKET,
    **dict.fromkeys(("InvalidBlockDeviceMapping", "InvalidUserData.Malformed", "InvalidRequest"), _ASKED),
    **dict.fromkeys(("InvalidVolumeID.Malformed", "InvalidInstanceID.Malformed", "ValidationException"), _ASKED),
    **dict.fromkeys(("VolumeTypeNotAvailableInZone", "UnknownVolumeType", "InvalidVolumeID.ZoneMismatch"), _ASKED),
}

_NO_ANSWER = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ReadTimeoutError,
    boto.ConnectionClosedError,
    boto.ProxyConnectionError,
    boto.ResponseStreamingError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.NoAuthTokenError,
    boto.MetadataRetrievalError,
)
_SETTINGS = (
    boto.NoRegionError,
    boto.InvalidRegionError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.InvalidConfigError,
    boto.InvalidEndpointDiscoveryConfigurationError,
)


def code_of(exc: boto.ClientError) -> str:
    """Return AWS' code of an error."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def translate(exc: Exception, verb: str, resource: str, decoded: str = "") -> RankVolError:
    """Return the error of our tree that an SDK's error stands for.

    Args:
        decoded: what STS says about a missing right, where it may be asked.
    """
    if isinstance(exc, boto.ClientError):
        return _answered(exc, verb, resource, decoded)
    if isinstance(exc, _SETTINGS):
        return ConfigError(f"the aws connection: {exc}. Correct its extra (region_name, profile_name, config_kwargs)")
    where: dict[str, Any] = {"backend": "aws", "verb": verb, "resource": resource}
    if isinstance(exc, boto.SSLError):
        return FinalError(f"{exc}. Set verify in the connection's extra to the bundle of the proxy's CA", **where)
    if isinstance(exc, _NO_ANSWER):
        return RetryableError(f"AWS gave no answer: {exc}. It is tried again", **where)
    if isinstance(exc, _NO_CREDENTIALS):
        return CredentialsRefused(f"{exc}. {_CREDENTIALS.step}", **where)
    return FinalError(f"{type(exc).__name__}: {exc}", **where)


def sign_in_error(exc: Exception, conn_id: str, verb: str, resource: str) -> CredentialsRefused | None:
    """Return the error for what the hook's ways of signing in raise besides the SDK's errors; None for another one.

    Web identity reads a token's file, and asks Google where it is so configured; SAML and GSSAPI speak HTTP.
    """
    where: dict[str, Any] = {"backend": "aws", "verb": verb, "resource": resource}
    if came_expired(exc):
        text = f"the connection {conn_id} was given credentials that had expired already: {exc} {_CREDENTIALS.step}"
        return CredentialsRefused(text, **where)
    package = type(exc).__module__.partition(".")[0]
    if not isinstance(exc, OSError) and package not in ("airflow", "google", "requests"):
        return None
    text = f"the connection {conn_id} cannot sign in: {type(exc).__name__}: {exc}. Correct its login or its extra"
    return CredentialsRefused(text, **where)


def came_expired(exc: Exception) -> bool:
    """Say whether what gives credentials out gave some that had expired: botocore has no error of its own for that.

    ``RefreshableCredentials._protected_refresh`` in botocore 1.44.5: of credential_process, the metadata services and
    assumed roles.
    """
    return isinstance(exc, RuntimeError) and "refreshed credentials are still expired" in str(exc)


def _answered(exc: boto.ClientError, verb: str, resource: str, decoded: str) -> BackendError:
    code = code_of(exc)
    said = str(exc.response.get("Error", {}).get("Message", "")) or str(exc)
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    meaning = TABLE.get(code) or (_AGAIN if status >= 500 else Meaning(FinalError, "See AWS' error codes of EC2"))
    text = decoded or said.partition("Encoded authorization failure message")[0].strip()
    text = text.rstrip(". ")
    message = f"{exc.operation_name} answered {code or status}: {text}. {meaning.step}".strip()
    return meaning.error(message, backend="aws", verb=verb, resource=resource)
