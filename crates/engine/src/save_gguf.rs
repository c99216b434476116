//! A model in Hugging Face layout as a GGUF file with its tokenizer and chat template.

use std::{fs, path::Path};

use harness_core::Control;
use harness_decoder::{Checkpoint, DecoderError, GgufFile, GgufType, GgufValue, write_gguf, write_gguf_vocabulary};

use crate::{ChatTemplate, EngineError, TextTokenizer};

/// Writes the model in `folder` to the GGUF file `to` under a name; see [`write_gguf`].
///
/// # Errors
/// As [`write_gguf`], and if the file would cut texts into other tokens than the model's tokenizer does.
pub fn save_gguf(
    folder: &Path,
    to: &Path,
    kind: GgufType,
    name: &str,
    on_tensor: &mut dyn FnMut(usize, usize) -> Control,
) -> Result<(), EngineError> {
    let checkpoint = Checkpoint::open(folder)?;
    let config = checkpoint.config()?;
    let mut ends = config.eos_token_ids.clone();
    for end in checkpoint.generation(&config)?.eos_token_ids {
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    let tokenizer = TextTokenizer::load(folder)?;
    let refused = |reason: String| DecoderError::Gguf {
        path: folder.to_owned(),
        reason: format!("the tokenizer cannot be written to a GGUF file: {reason}"),
    };
    let mut metadata = tokenizer.to_gguf(config.vocab_size, &ends).map_err(refused)?;
    // What the file will say is read before the long work begins.
    write_gguf_vocabulary(to, &metadata)?;
    let read = TextTokenizer::from_gguf(&GgufFile::open(to)?)?;
    fs::remove_file(to).map_err(|e| DecoderError::write(to, e))?;
    tokenizer.is_as_read(&read).map_err(refused)?;

    metadata.push(("general.name".to_owned(), GgufValue::String(name.to_owned())));
    if let Some(template) = ChatTemplate::load(folder, None)? {
        metadata.push(("tokenizer.chat_template".to_owned(), GgufValue::String(template.source().to_owned())));
    }
    Ok(write_gguf(folder, to, kind, metadata, on_tensor)?)
}
