"""The environment of a component's processes: what a real core gives, and the sandbox's endpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.recipe import Recipe
from hybridge_edge.contract.trust_document import TRUST_VARIABLE

TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105  a component's name
DEFAULT_REGION = "us-east-1"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def python_folder() -> str:
    """The folder of the base interpreter that runs this device, outside any venv: where `python3` is found first."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return str(Path(base).resolve().parent)


def component_environment(
    recipe: Recipe,
    mode: Mode,
    limits: Limits,
    *,
    thing: str,
    socket: Path,
    token: str,
    credentials: str,
    work: Path,
    ca: str,
) -> Mapping[str, str]:
    """Exactly what one component's processes see, Setenv aside.

    Args:
        credentials: the token exchange service's URI.
        ca: the root certificate of the account's MQTT endpoint, "" for none.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    variables = {
        "PATH": f"{python_folder()}:{_SYSTEM_PATH}",
        # The developer's home holds credentials and caches that no device has.
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(socket),
        "SVCUID": token,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_IOT_THING_NAME": thing,
        "GGC_VERSION": limits.version,
        "GG_ROOT_CA_PATH": ca,
    }
    if mode is Mode.CLASSIC or any(item.name == TOKEN_EXCHANGE for item in recipe.dependencies):
        variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = credentials
    # The two differences from a real core: where the account is, and, since the devices of one machine share /etc,
    # where enrolment wrote the trust file.
    variables.update(
        {key: value for key, value in os.environ.items() if key.startswith("AWS_ENDPOINT_URL") or key == TRUST_VARIABLE}
    )
    return variables
