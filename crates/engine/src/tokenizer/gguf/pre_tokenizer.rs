//! How byte-level BPE models cut a text into words before merging, by the name that GGUF gives the way
//! (`tokenizer.ggml.pre`). The patterns are those of the models' own `tokenizer.json`.

use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// What belongs to one way of cutting.
pub(super) struct PreTokenizer {
    /// The cutting itself.
    pub(super) wrapper: PreTokenizerWrapper,
    /// A word that is in the vocabulary is a token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) add_bos: bool,
    /// Whether the text is brought to Unicode's NFC first.
    pub(super) nfc: bool,
}

/// Names understood, for messages.
pub(super) const SUPPORTED: &str =
    "default, gpt-2, smollm, llama-bpe, qwen2, deepseek-llm, deepseek-coder, tekken and their kin";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The cased letters that DeepSeek-LLM keeps together.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}Ⰰ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_SIGNS: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
/// Chinese, Japanese and Korean characters and what lies between.
const DEEPSEEK_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// The way of cutting of this name.
///
/// # Errors
/// `None` for an unknown name; a reason where a pattern does not compile.
pub(super) fn pre_tokenizer(name: &str) -> Option<Result<PreTokenizer, String>> {
    let plain = |wrapper| PreTokenizer { wrapper, ignore_merges: false, add_bos: false, nfc: false };
    let gpt2 = || PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
    let digits = || PreTokenizerWrapper::from(Digits::new(true));
    Some(match name {
        "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" | "mellum" | "a.x-4.0" | "exaone4" | "trillion"
        | "granite-docling" => Ok(plain(gpt2())),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            Ok(plain(Sequence::new(vec![digits(), gpt2()]).into()))
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            cuts(&[LLAMA3], None).map(|wrapper| PreTokenizer { ignore_merges: true, add_bos: true, ..plain(wrapper) })
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => cuts(&[LLAMA3], None).map(plain),
        "tekken" => {
            cuts(&[TEKKEN], None).map(|wrapper| PreTokenizer { ignore_merges: true, add_bos: true, ..plain(wrapper) })
        }
        "qwen2" | "deepseek-r1-qwen" => {
            cuts(&[QWEN2], None).map(|wrapper| PreTokenizer { nfc: true, ..plain(wrapper) })
        }
        "stablelm2" | "megrez" | "hunyuan" => cuts(&[QWEN2], None).map(plain),
        "deepseek-llm" => {
            let patterns = [r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_SIGNS, r"\s+$", DEEPSEEK_CJK];
            cuts(&patterns, Some(digits())).map(plain)
        }
        "deepseek-coder" => {
            let patterns = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK];
            cuts(&patterns, Some(digits())).map(plain)
        }
        "" | "default" => cuts(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"], None).map(plain),
        _ => return None,
    })
}

/// Cuts by one pattern after the other, every match a word of its own, then maybe by digits; bytes become characters last.
fn cuts(patterns: &[&str], then: Option<PreTokenizerWrapper>) -> Result<PreTokenizerWrapper, String> {
    let split = |pattern: &&str| {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map(PreTokenizerWrapper::from)
            .map_err(|error| error.to_string())
    };
    let mut all = patterns.iter().map(split).collect::<Result<Vec<_>, _>>()?;
    all.extend(then);
    all.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(all).into())
}
