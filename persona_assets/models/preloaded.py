"""What every process that works with models imports; imported by the server that such processes are forked from.

An import that fails is none of the server's business: the process that needs the library meets it again and reports it. The
server passes over an ImportError, so everything becomes one.
"""

from __future__ import annotations

import gc
from importlib import import_module

from persona_assets.models.loading import spare_scikit_learn
from persona_assets.processes import SERVER_THREADS, set_numeric_environment

_LIBRARIES = (
    "torch",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.modeling_qwen2",
)

set_numeric_environment(SERVER_THREADS)
try:
    spare_scikit_learn()
    for _library in _LIBRARIES:
        import_module(_library)
except Exception as error:
    raise ImportError(str(error)) from error
gc.freeze()  # children need not look through it, which would copy its pages
