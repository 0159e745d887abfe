"""What each volume type can be: size, IOPS, throughput (API:CreateVolume; ebsug/ebs-volume-types)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.clouds.aws.errors import Ec2Error, combination, invalid, missing


@dataclass(frozen=True)
class Bounds:
    """The bounds of one volume type; None where the type does not take the setting."""

    size_gib: tuple[int, int]
    iops: tuple[int, int] | None = None
    iops_per_gib: int = 0
    iops_required: bool = False
    throughput_mibps: tuple[int, int] | None = None


TYPES = {
    "gp3": Bounds((1, 65_536), (3_000, 80_000), 500, throughput_mibps=(125, 2_000)),
    "gp2": Bounds((1, 16_384)),
    "io1": Bounds((4, 16_384), (100, 64_000), 50, iops_required=True),
    "io2": Bounds((4, 65_536), (100, 256_000), 1_000, iops_required=True),
    "st1": Bounds((125, 16_384)),
    "sc1": Bounds((125, 16_384)),
    "standard": Bounds((1, 1_024)),
}

GP3_BASE_IOPS = 3_000
GP3_BASE_MIBPS = 125
GP3_MIBPS_PER_IOPS = 0.25


def check(kind: str, size_gib: int, iops: int | None, throughput_mibps: int | None) -> None:
    """Refuse a volume that EC2 would refuse.

    Raises:
        Ec2Error: UnknownVolumeType, InvalidParameterValue, InvalidParameterCombination or MissingParameter.
    """
    if kind not in TYPES:
        raise Ec2Error("UnknownVolumeType", f"Unsupported volume type '{kind}' for volume creation.")
    bounds = TYPES[kind]
    low, high = bounds.size_gib
    if size_gib < low:
        raise invalid(f"Volume of {size_gib}GiB is too small for volume type {kind}; minimum is {low}GiB.")
    if size_gib > high:
        raise invalid(f"Volume of {size_gib}GiB is too large for volume type {kind}; maximum is {high}GiB.")
    _check_iops(kind, bounds, size_gib, iops)
    _check_throughput(kind, bounds, iops, throughput_mibps)


def _check_iops(kind: str, bounds: Bounds, size_gib: int, iops: int | None) -> None:
    if iops is None:
        if bounds.iops_required:
            raise missing(f"iops for {kind} volumes")
        return
    if bounds.iops is None:
        raise combination(f"The parameter iops is not supported for {kind} volumes.")
    low, high = bounds.iops
    if iops < low:
        raise invalid(f"Volume iops of {iops} is too low; minimum is {low}.")
    if iops > high:
        raise invalid(f"Volume iops of {iops} is too high; maximum is {high}.")
    # gp3 has its base of 3,000 IOPS whatever its size (ebsug/general-purpose).
    if iops > size_gib * bounds.iops_per_gib and not (kind == "gp3" and iops == GP3_BASE_IOPS):
        raise invalid(
            f"Iops to volume size ratio of {iops / size_gib:.6f} is too high; "
            f"maximum is {bounds.iops_per_gib} IOPS per GiB."
        )


def _check_throughput(kind: str, bounds: Bounds, iops: int | None, throughput_mibps: int | None) -> None:
    if throughput_mibps is None:
        return
    if bounds.throughput_mibps is None:
        raise combination(f"The parameter throughput is not supported for {kind} volumes.")
    low, high = bounds.throughput_mibps
    if not low <= throughput_mibps <= high:
        raise invalid(f"Throughput of {throughput_mibps} MiB/s is out of bounds; expected {low} to {high}.")
    ratio = throughput_mibps / (iops or GP3_BASE_IOPS)
    if ratio > GP3_MIBPS_PER_IOPS:
        raise invalid(
            f"Throughput (MiBps) to iops ratio of {ratio:.6f} is too high; "
            f"maximum is {GP3_MIBPS_PER_IOPS} MiBps per iops."
        )
