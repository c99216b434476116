"""Makes tests/fixtures/nf4: matrices quantised by bitsandbytes (0.50.2, CPU), as safetensors.

    python make_nf4.py ../fixtures/nf4

Inputs are not stored: element i of a case is an exact function of i, which the test computes as well.
"""

import sys
from pathlib import Path

import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors.torch import save_file


def values(n: int, seed: int) -> np.ndarray:
    i = np.arange(n, dtype=np.uint64)
    mixed = (i * np.uint64(2654435761) + np.uint64(seed) * np.uint64(40503)) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    uniform = (mixed >> np.uint64(8)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    # Blocks of 64 differ in scale, by a factor that is exact in f32.
    factor = ((i // np.uint64(64)) % np.uint64(13) + np.uint64(1)).astype(np.float32) / np.float32(64)
    return uniform * uniform * uniform * factor


CASES = {
    # name: shape, block, double, dtype
    "rows_of_blocks": ((24, 128), 64, True, torch.float32),
    "across_rows": ((9, 40), 64, True, torch.float32),
    "odd": ((3, 7), 64, False, torch.float32),
    "nested_blocks": ((64, 512), 64, True, torch.float32),
    "small_blocks": ((16, 64), 32, False, torch.float32),
    "large_blocks": ((4, 600), 256, True, torch.float32),
    "bfloat16": ((8, 192), 64, True, torch.bfloat16),
    "zeros": ((2, 64), 64, True, torch.float32),
}


def main(folder: Path) -> None:
    for seed, (name, (shape, block, double, dtype)) in enumerate(CASES.items()):
        n = shape[0] * shape[1]
        data = np.zeros(n, dtype=np.float32) if name == "zeros" else values(n, seed)
        weight = torch.from_numpy(data.reshape(shape)).to(dtype)
        packed, state = F.quantize_4bit(weight, blocksize=block, compress_statistics=double, quant_type="nf4")
        tensors = {"w.weight": packed}
        tensors |= {f"w.weight.{k}": v.contiguous() for k, v in state.as_dict(packed=True).items()}
        wide = F.dequantize_4bit(packed, state).float()
        if dtype == torch.float32:
            tensors["dequantised"] = wide.reshape(-1)[:1024].clone()
        # A plain pass of a linear and of its gradient through the codes.
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        print(name, packed.shape, state.as_dict(packed=False).get("nested_offset"))


main(Path(sys.argv[1]))
