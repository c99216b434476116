//! The prepared data of a recipe.

use harness_core::{Digest, Hasher};
use harness_engine::{ChatTemplate, TextTokenizer};
use harness_store::FileHashes;
use serde_json::json;

use super::ResolvedRecipe;
use crate::{
    TrainingError,
    data::{Chat, PreparedRow, PreparedSet, tokenize, tokenize_pairs},
};

impl ResolvedRecipe {
    /// The prepared set of the recipe for a tokenizer and the chat template beside it: the one in the cache if its content is
    /// whole, else made, and kept there.
    ///
    /// # Errors
    /// Whatever is wrong with data, templates or tokenizer. A set that cannot be kept is no error but a note.
    pub fn prepared_set(
        &self,
        tokenizer: &TextTokenizer,
        chat_template: Option<&ChatTemplate>,
        hashes: &FileHashes,
    ) -> Result<PreparedSet, TrainingError> {
        let chat = self.chat(tokenizer, chat_template)?;
        let key = self.set_key(tokenizer, chat.as_ref(), hashes)?;
        let folder = self.cache.as_ref().map(|cache| cache.join(key.short()));
        PreparedSet::kept(folder.as_deref(), key, hashes, || self.make_set(tokenizer, chat.as_ref(), key))
    }

    /// Of everything that decides what the samples are, and of nothing else.
    fn set_key(
        &self,
        tokenizer: &TextTokenizer,
        chat: Option<&Chat<'_>>,
        hashes: &FileHashes,
    ) -> Result<Digest, TrainingError> {
        let data = &self.recipe.data;
        let mut hasher = Hasher::new("prepared set");
        hasher.part(PreparedSet::VERSION.to_le_bytes()).part(self.template.digest().as_bytes());
        hasher.part(tokenizer.digest().as_bytes()).part([u8::from(tokenizer.adds_bos())]);
        let options = json!({
            "drop_empty": data.drop_empty, "strip": data.strip, "shuffle_seed": data.shuffle_seed,
            "split": data.split, "max_samples": data.max_samples, "loss": data.loss, "max_length": data.max_length,
            "pairs": self.recipe.dpo.is_some(), "validation": self.recipe.training.eval_samples,
            "unusable_rows": data.unusable_rows, "chat": chat.map(Chat::digest),
        });
        hasher.part(harness_core::canonical_json(&options));
        for entry in self.data.entries(hashes)? {
            hasher.part(entry.hash.as_bytes());
        }
        Ok(hasher.finish())
    }

    fn make_set(
        &self,
        tokenizer: &TextTokenizer,
        chat: Option<&Chat<'_>>,
        key: Digest,
    ) -> Result<PreparedSet, TrainingError> {
        let (recipe, data) = (&self.recipe, &self.recipe.data);
        let prepared = self.prepare(chat)?;
        let tokens = |rows: &[PreparedRow]| match recipe.dpo {
            None => tokenize(rows, tokenizer, data.loss, data.max_length),
            Some(_) => tokenize_pairs(rows, tokenizer, data.max_length).map_err(|error| recipe.place(error)),
        };
        let train = tokens(&prepared.train)?;
        let limit = recipe.training.eval_samples.unwrap_or(usize::MAX).min(prepared.validation.len());
        let validation = tokens(&prepared.validation[..limit])?;
        Ok(PreparedSet::new(prepared, train, validation, key))
    }
}
