//! Running models: weights, tokenizers, chat templates, the decoder, scheduling, generation.
