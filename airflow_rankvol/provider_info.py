"""What Airflow is told about this provider."""

from __future__ import annotations

from typing import Any

from airflow_rankvol import __version__


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the form of Airflow's ``provider_info`` schema."""
    return {
        "package-name": "airflow-rankvol",
        "name": "Rank volumes",
        "description": "One block volume per rank: create, attach, run, gather, delete.",
        "versions": [__version__],
        "connection-types": [
            {
                "hook-class-name": "airflow_rankvol.hooks.LocalRankVolHook",
                "connection-type": "rankvol_local",
                "hook-name": "Rank volumes on this machine",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "schema", "login", "password", "port"],
                    "relabeling": {},
                },
                "conn-fields": {
                    "state_dir": {
                        "label": "State directory",
                        "description": "Where volumes and nodes live; default: rankvol/ below AIRFLOW_HOME.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "mode": {
                        "label": "Volume mode",
                        "description": "image: ext4 images with a real size limit; directory: plain directories; "
                        "auto: image where the machine allows it.",
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["auto", "image", "directory", None],
                            "default": "auto",
                        },
                    },
                    "owner": {
                        "label": "Owner",
                        "description": "The owner tag of everything made here; default: a hash of the state "
                        "directory, or [rankvol] owner.",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
        "extra-links": [
            "airflow_rankvol.links.VolumesInConsole",
            "airflow_rankvol.links.NodeInConsole",
            "airflow_rankvol.links.GroupOnPage",
        ],
        "cli": ["airflow_rankvol._cli_commands.get_cli_commands"],
        "config": {
            "rankvol": {
                "description": "Settings of the rank volumes provider.",
                "options": {
                    "owner": {
                        "description": "Owner tag of every volume and node; must be the same in every component. "
                        "Cloud backends refuse to work without it.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "data-platform-prod",
                        "default": None,
                    },
                    "conn_ids": {
                        "description": "Comma-separated connections that `rankvol ls`, `rankvol reap`, the reaper and "
                        "the page cover when no others are given.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "rankvol_default,aws_default",
                        "default": "rankvol_default",
                    },
                    "prices": {
                        "description": "YAML file with prices that come before the package's own prices.yaml, "
                        "in its form.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/etc/airflow/rankvol-prices.yaml",
                        "default": None,
                    },
                },
            }
        },
    }
