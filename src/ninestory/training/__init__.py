"""The one training loop: adapter methods, data order, batches, checkpoints, exact resume, curves, run folder."""

import logging
import warnings

# Said at every start of a run by the libraries to one another, with nothing in it for the user: peft imports
# bitsandbytes, which misses a hub of kernels that is never asked here, reads a name that transformers is retiring, and
# does not know our packed linears (quantized_base.py tells it of them; the oracles of NF4 and GPTQ are the answer).
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
