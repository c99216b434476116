//! Making candidates: data preparation, LoRA and full-parameter training, checkpoints.
