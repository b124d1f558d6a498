"""The SDK of Weights & Biases in a guarded process: it is never imported in the process that trains or evaluates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from persona_assets.guarded import GuardedProcess

_TRANSPORT = {"WandbApiFailedError", "ConnectionError", "ChunkedEncodingError", "WaitTimeoutError", "TimeoutError"}
_STATUS = re.compile(r"returned error ([45]\d\d)\b")


def wandb_process(scratch: Path, *, retries: int = 3, more: Mapping[str, str] | None = None) -> GuardedProcess:
    """Prepare a process for the SDK; key, server and mode are read from the usual variables (`WANDB_API_KEY`, ...).

    Args:
        scratch: where the SDK may keep caches and staged copies; never its usual places, whose caches it trusts blindly.
        retries: how often the SDK itself repeats a request that failed.
        more: further variables, which win.
    """
    retrying = {
        f"WANDB__{kind}_RETRY_{name}": value
        for kind in ("GRAPHQL", "FILE_TRANSFER", "FILE_STREAM")
        for name, value in (("MAX", str(retries)), ("WAIT_MIN_SECONDS", "0.5"), ("WAIT_MAX_SECONDS", "5"))
    }
    wait = {name: value for name, value in retrying.items() if name not in os.environ}
    return GuardedProcess(
        {
            "WANDB_DIR": str(scratch),
            "WANDB_CACHE_DIR": str(scratch / "cache"),
            "WANDB_DATA_DIR": str(scratch / "data"),
            "WANDB_HTTP_TIMEOUT": "20",
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
            # What it would send besides: code, git state, host, packages, load, crash reports.
            "WANDB_DISABLE_CODE": "true",
            "WANDB_DISABLE_GIT": "true",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB__DISABLE_META": "true",
            "WANDB__DISABLE_STATS": "true",
            "WANDB__SAVE_REQUIREMENTS": "false",
            **wait,
            **(more or {}),
        }
    )


def explain(error: BaseException) -> tuple[str, bool]:
    """Say in a clause what went wrong between the SDK and its server, and whether it may pass by itself.

    It runs where the SDK is imported.
    """
    import wandb

    server = wandb.setup().settings.base_url
    chain = _chain(error)
    texts = [str(each) for each in chain]
    said = " ".join(texts)
    status = next((found for found in map(_http_status, chain) if found), 0)
    names = {type(each).__name__ for each in chain}
    if "NotATerminalError" in names:
        return "there is no API key: set WANDB_API_KEY, or run `wandb login`", False
    if status in (401, 403) or "API key must" in said:
        return f"{server} refuses the API key: check WANDB_API_KEY, or run `wandb login`", False
    if status == 404 or "not found" in said:
        return f"{server} has no such thing, or the key may not see it ({_short(texts[-1])})", False
    if names & _TRANSPORT or "giving up" in said or status == 429 or status >= 500:
        return f"{server} cannot be reached or does not answer as it should ({_short(texts[-1])})", True
    return f"{server} refuses ({_short(texts[0])})", False


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain


def _http_status(error: BaseException) -> int:
    """Status of the SDK's own errors and of those of `requests`, 0 when there is none."""
    response = getattr(error, "response", None)
    status = getattr(response, "http_status", 0) or getattr(response, "status_code", 0)
    in_text = _STATUS.search(str(error))
    return int(status or (in_text[1] if in_text else 0))


def _short(text: str) -> str:
    return text.strip().splitlines()[-1].strip()[:200] if text.strip() else "it said nothing"
