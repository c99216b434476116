"""Random blocks of ggml's types and what gguf-py makes of them: golden/vectors/gguf_blocks.txt.

    pip install gguf
    python tests/tools/gguf_blocks.py > golden/vectors/gguf_blocks.txt
"""

from importlib.metadata import version

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

# Where the half-precision scales of a block are: any bits could be no number.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip

rng = np.random.default_rng(16)
print(f"# gguf-py {version('gguf')}, gguf.quants.dequantize; blocks by numpy.random.default_rng(16) (tests/tools/gguf_blocks.py).")
print("# A line: type, the bytes of its blocks, the bits of their elements in f32; both in hexadecimal.")
for name, places in SCALES.items():
    kind = GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    # Small blocks twice: the second with scales that are subnormal in half precision.
    blocks = rng.integers(0, 256, (2 if elements == 32 else 1, size), dtype=np.uint8)
    for block, magnitude in zip(blocks, (0.01, 3e-6)):
        for at in places:
            block[at : at + 2] = np.frombuffer(np.float16(rng.normal() * magnitude).tobytes(), np.uint8)
    values = dequantize(blocks, kind).astype(np.float32).reshape(-1)
    print(name.lower(), blocks.tobytes().hex(), "".join(f"{bits:08x}" for bits in values.view(np.uint32)))
