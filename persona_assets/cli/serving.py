"""Serve the Dagster UI, its daemon and the lake: what `dg dev` does, with our own web server and our daemon's shorter pauses."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from persona_assets.cli.deployment import REPOSITORY, deployment_variables

if TYPE_CHECKING:
    import subprocess

_OURS = {"dagster_webserver": "persona_assets.cli.webserver", "dagster._daemon": "persona_assets.cli.daemon"}


def serve_ui(profile: str | None, host: str, port: int) -> None:
    """Serve until interrupted.

    Args:
        profile: the profile to load; None leaves `PERSONA_PROFILES`, so that several can be shown.
        host: address to listen on.
        port: port to listen on.

    Raises:
        ConfigurationError: DAGSTER_HOME cannot be used.
    """
    from dagster._cli import dev
    from dagster_shared.cli import WorkspaceOpts

    deployment_variables()
    if profile is not None:
        os.environ["PERSONA_PROFILES"] = profile
    start = dev.open_ipc_subprocess  # type: ignore[attr-defined]

    def start_ours(parts: Any, **options: Any) -> subprocess.Popen[bytes]:
        return start([_OURS.get(part, part) for part in parts], **options)

    # `dagster dev` keeps code server, web server and daemon together; it offers no other way to name what it starts.
    dev.open_ipc_subprocess = start_ours  # type: ignore[attr-defined]
    print(f"Dagster UI: http://{'localhost' if host == '127.0.0.1' else host}:{port}  (stop it with Ctrl-C)", file=sys.stderr)
    dev.dev_command_impl(
        code_server_log_level="warning",
        log_level="warning",
        log_format="colored",
        port=str(port),
        host=host,
        use_legacy_code_server_behavior=False,
        shutdown_pipe=None,
        verbose=False,
        workspace_opts=WorkspaceOpts(workspace=[str(REPOSITORY / "workspace.yaml")]),
    )
