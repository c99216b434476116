//! The tokenizer of the embedded model: byte-level BPE over the corpus.

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, TokenizerBuilder,
    decoders::byte_level::ByteLevel as Decoder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::utils::Sequence,
    pre_tokenizers::byte_level::ByteLevel,
    processors::template::TemplateProcessing,
};

/// Begins every text.
pub const BOS: &str = "<s>";
/// Ends every text.
pub const EOS: &str = "</s>";

/// Trains a tokenizer of `vocab_size` tokens; the content of `tokenizer.json`.
///
/// # Errors
/// If the tokenizers library refuses, which it does for no text.
pub fn train_tokenizer(texts: &[String], vocab_size: usize) -> Result<String, tokenizers::Error> {
    let specials = [BOS, EOS].map(|text| AddedToken::from(text, true).normalized(false));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let processor = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))?
        .try_pair(format!("{BOS} $A $B:1"))?
        .special_tokens(vec![(BOS, 0)])
        .build()?;
    let mut tokenizer = TokenizerBuilder::<BPE, Sequence, ByteLevel, TemplateProcessing, Decoder>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(processor))
        .with_decoder(Some(Decoder::default()))
        .build()?;
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str))?;
    tokenizer.to_string(false)
}

/// The content of `tokenizer_config.json`, with a chat template in the form of the instructions.
pub fn tokenizer_config(max_length: usize) -> Value {
    let template = concat!(
        "{{ bos_token }}{% for message in messages %}",
        "{% if message['role'] == 'assistant' %}### Response:\n{{ message['content'] }}{{ eos_token }}\n\n",
        "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n",
        "{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}",
        "{% if add_generation_prompt %}### Response:\n{% endif %}",
    );
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": BOS,
        "chat_template": template,
        "clean_up_tokenization_spaces": false,
        "eos_token": EOS,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}
