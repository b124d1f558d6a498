"""Names of the files of an adapter: the two that peft writes and reads, and the loss curve that is kept beside them."""

from __future__ import annotations

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LOSS_CURVE_FILE = "loss_curve.parquet"
