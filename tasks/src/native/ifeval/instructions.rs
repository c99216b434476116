//! The 25 kinds of instruction and what follows them.

use harness_python::PythonRegex;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{capitals, language, sentences};
use harness_python::{is_space, standard_json, trim as strip};

/// One instruction with its arguments.
#[derive(Clone, Debug)]
pub(super) enum Instruction {
    /// All of these patterns occur.
    Keywords(Vec<PythonRegex>),
    /// A pattern occurs this often.
    KeywordFrequency(PythonRegex, Bound),
    /// None of these words occurs.
    ForbiddenWords(Vec<PythonRegex>),
    LetterFrequency(char, Bound),
    Language(String),
    Sentences(Bound),
    /// Exactly so many parts between `***`.
    Paragraphs(usize),
    Words(Bound),
    /// So many parts between empty lines, the n-th (from 1) with this first word.
    FirstWord {
        paragraphs: usize,
        nth: usize,
        word: String,
    },
    Placeholders(usize),
    Postscript(PythonRegex),
    Bullets(usize),
    /// One of the three answers of the paper.
    OneOfThree,
    Highlights(usize),
    Sections(PythonRegex, usize),
    Json,
    Title,
    TwoResponses,
    RepeatPrompt(String),
    EndsWith(String),
    CapitalWords(Bound),
    EnglishCapital,
    EnglishLowercase,
    NoComma,
    Quotation,
}

/// `less than` or `at least` a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    less: bool,
    number: usize,
}

impl Bound {
    fn holds(self, count: usize) -> bool {
        if self.less { count < self.number } else { count >= self.number }
    }
}

/// The arguments of one instruction; null and empty values count as absent.
struct Arguments<'a> {
    id: &'a str,
    map: &'a Map<String, Value>,
}

impl Arguments<'_> {
    fn wrong(&self, key: &str, expected: &str) -> String {
        match self.map.get(key) {
            None | Some(Value::Null) => format!("the instruction {} needs the argument {key}, {expected}", self.id),
            Some(found) => {
                format!("the argument {key} of the instruction {} must be {expected}, found {found}", self.id)
            }
        }
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let text = self.map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.ok_or_else(|| self.wrong(key, "a text"))
    }

    fn number(&self, key: &str) -> Result<usize, String> {
        let number = self.map.get(key).and_then(Value::as_f64).filter(|x| *x >= 1.0 && x.fract() == 0.0);
        number.map(|number| number as usize).ok_or_else(|| self.wrong(key, "a number of at least 1"))
    }

    fn bound(&self, relation: &str, number: &str) -> Result<Bound, String> {
        let less = match self.text(relation)? {
            "less than" => true,
            "at least" => false,
            _ => return Err(self.wrong(relation, "\"less than\" or \"at least\"")),
        };
        Ok(Bound { less, number: self.number(number)? })
    }

    fn patterns(&self, key: &str, of: impl Fn(&str) -> String) -> Result<Vec<PythonRegex>, String> {
        let list = self.map.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| self.wrong(key, "a list of texts"))?;
        list.iter()
            .map(|item| {
                item.as_str().ok_or_else(|| self.wrong(key, "a list of texts")).and_then(|text| pattern(&of(text)))
            })
            .collect()
    }
}

fn pattern(source: &str) -> Result<PythonRegex, String> {
    PythonRegex::new(source).map_err(|error| error.to_string())
}

/// Whatever letters are large or small.
fn any_case(source: &str) -> String {
    format!("(?i){source}")
}

impl Instruction {
    /// The instruction of an id.
    ///
    /// # Errors
    /// If there is no such instruction, or an argument is missing.
    pub(super) fn read(id: &str, map: &Map<String, Value>) -> Result<Self, String> {
        let arguments = Arguments { id, map };
        Ok(match id {
            "keywords:existence" => Self::Keywords(arguments.patterns("keywords", any_case)?),
            "keywords:frequency" => Self::KeywordFrequency(
                pattern(&any_case(strip(arguments.text("keyword")?)))?,
                arguments.bound("relation", "frequency")?,
            ),
            "keywords:forbidden_words" => {
                Self::ForbiddenWords(arguments.patterns("forbidden_words", |word| any_case(&format!(r"\b{word}\b")))?)
            }
            "keywords:letter_frequency" => {
                let mut letters = arguments.text("letter")?.chars();
                let (Some(letter), None) = (letters.next(), letters.next()) else {
                    return Err(arguments.wrong("letter", "one letter"));
                };
                Self::LetterFrequency(lower(letter), arguments.bound("let_relation", "let_frequency")?)
            }
            "language:response_language" => Self::Language(arguments.text("language")?.to_owned()),
            "length_constraints:number_sentences" => Self::Sentences(arguments.bound("relation", "num_sentences")?),
            "length_constraints:number_paragraphs" => Self::Paragraphs(arguments.number("num_paragraphs")?),
            "length_constraints:number_words" => Self::Words(arguments.bound("relation", "num_words")?),
            "length_constraints:nth_paragraph_first_word" => Self::FirstWord {
                paragraphs: arguments.number("num_paragraphs")?,
                nth: arguments.number("nth_paragraph")?,
                word: arguments.text("first_word")?.to_lowercase(),
            },
            "detectable_content:number_placeholders" => Self::Placeholders(arguments.number("num_placeholders")?),
            "detectable_content:postscript" => {
                let marker = strip(arguments.text("postscript_marker")?);
                Self::Postscript(pattern(&match marker {
                    "P.P.S" => r"(?m)\s*p\.\s?p\.\s?s.*$".to_owned(),
                    "P.S." => r"(?m)\s*p\.\s?s\..*$".to_owned(),
                    other => format!(r"(?m)\s*{}.*$", other.to_lowercase()),
                })?)
            }
            "detectable_format:number_bullet_lists" => Self::Bullets(arguments.number("num_bullets")?),
            "detectable_format:constrained_response" => Self::OneOfThree,
            "detectable_format:number_highlighted_sections" => Self::Highlights(arguments.number("num_highlights")?),
            "detectable_format:multiple_sections" => {
                let splitter = strip(arguments.text("section_spliter")?);
                Self::Sections(pattern(&format!(r"\s?{splitter}\s?\d+\s?"))?, arguments.number("num_sections")?)
            }
            "detectable_format:json_format" => Self::Json,
            "detectable_format:title" => Self::Title,
            "combination:two_responses" => Self::TwoResponses,
            "combination:repeat_prompt" => {
                Self::RepeatPrompt(strip(arguments.text("prompt_to_repeat")?).to_lowercase())
            }
            "startend:end_checker" => Self::EndsWith(strip(arguments.text("end_phrase")?).to_lowercase()),
            "change_case:capital_word_frequency" => {
                Self::CapitalWords(arguments.bound("capital_relation", "capital_frequency")?)
            }
            "change_case:english_capital" => Self::EnglishCapital,
            "change_case:english_lowercase" => Self::EnglishLowercase,
            "punctuation:no_comma" => Self::NoComma,
            "startend:quotation" => Self::Quotation,
            other => return Err(format!("IFEval has no instruction {other:?}")),
        })
    }

    /// Whether a text follows the instruction. A pattern that backtracks too much is not found.
    pub(super) fn check(&self, text: &str) -> bool {
        match self {
            Self::Keywords(keywords) => keywords.iter().all(|keyword| keyword.is_match(text).unwrap_or(false)),
            Self::KeywordFrequency(keyword, bound) => bound.holds(count(keyword, text)),
            Self::ForbiddenWords(words) => !words.iter().any(|word| word.is_match(text).unwrap_or(false)),
            Self::LetterFrequency(letter, bound) => {
                bound.holds(text.to_lowercase().chars().filter(|c| c == letter).count())
            }
            Self::Language(wanted) => language::of(text).is_none_or(|found| found == wanted),
            Self::Sentences(bound) => bound.holds(sentences::count(text)),
            Self::Paragraphs(wanted) => paragraphs(text) == Some(*wanted),
            Self::Words(bound) => bound.holds(found(r"\w+", text)),
            Self::FirstWord { paragraphs, nth, word } => first_word(text, *paragraphs, *nth, word),
            Self::Placeholders(wanted) => found(r"\[.*?\]", text) >= *wanted,
            Self::Postscript(marker) => marker.is_match(&text.to_lowercase()).unwrap_or(false),
            Self::Bullets(wanted) => found(r"(?m)^\s*\*[^\*].*$", text) + found(r"(?m)^\s*-.*$", text) == *wanted,
            Self::OneOfThree => {
                ["My answer is yes.", "My answer is no.", "My answer is maybe."].iter().any(|one| text.contains(one))
            }
            Self::Highlights(wanted) => highlights(text) >= *wanted,
            Self::Sections(splitter, wanted) => {
                splitter.split(text).is_ok_and(|parts| parts.len().saturating_sub(1) >= *wanted)
            }
            Self::Json => is_json(text),
            Self::Title => matches(r"<<[^\n]+>>", text)
                .iter()
                .any(|title| !strip(title.trim_start_matches('<').trim_end_matches('>')).is_empty()),
            Self::TwoResponses => two_responses(text),
            Self::RepeatPrompt(prompt) => strip(text).to_lowercase().starts_with(prompt),
            Self::EndsWith(phrase) => strip(text).trim_matches('"').to_lowercase().ends_with(phrase),
            Self::CapitalWords(bound) => bound.holds(capitals::words(text)),
            Self::EnglishCapital => capitals::is_upper(text) && language::of(text).is_none_or(|found| found == "en"),
            Self::EnglishLowercase => capitals::is_lower(text) && language::of(text).is_none_or(|found| found == "en"),
            Self::NoComma => !text.contains(','),
            Self::Quotation => {
                let text = strip(text);
                text.len() > 1 && text.starts_with('"') && text.ends_with('"')
            }
        }
    }
}

fn lower(letter: char) -> char {
    let mut small = letter.to_lowercase();
    small.next().unwrap_or(letter)
}

/// Whole matches of a constant pattern.
fn matches<'t>(source: &str, text: &'t str) -> Vec<&'t str> {
    let found = PythonRegex::new(source).and_then(|pattern| pattern.find_all(text));
    found.unwrap_or_default().into_iter().filter_map(|groups| groups.first().copied()).collect()
}

fn found(source: &str, text: &str) -> usize {
    matches(source, text).len()
}

fn count(pattern: &PythonRegex, text: &str) -> usize {
    pattern.find_all(text).map_or(0, |found| found.len())
}

/// Parts between `***`; empty ones at the ends do not count, and `None` where one in the middle is empty.
fn paragraphs(text: &str) -> Option<usize> {
    let splitter = PythonRegex::new(r"\s?\*\*\*\s?").ok()?;
    let parts = splitter.split(text).ok()?;
    let mut count = parts.len();
    for (at, part) in parts.iter().enumerate() {
        if strip(part).is_empty() {
            if at != 0 && at != parts.len() - 1 {
                return None;
            }
            count -= 1;
        }
    }
    Some(count)
}

/// The n-th part is looked up among all parts, although empty ones do not count.
fn first_word(text: &str, wanted: usize, nth: usize, word: &str) -> bool {
    let parts: Vec<&str> = text.split("\n\n").collect();
    let count = parts.iter().filter(|part| !strip(part).is_empty()).count();
    if nth > count {
        return false;
    }
    let Some(first) = parts[nth - 1].split(is_space).find(|word| !word.is_empty()) else { return false };
    let bare = first.trim_start_matches('\'').trim_start_matches('"');
    let end = bare.find(['.', ',', '?', '!', '\'', '"']).unwrap_or(bare.len());
    count == wanted && bare[..end].to_lowercase() == word
}

fn highlights(text: &str) -> usize {
    let single = matches(r"\*[^\n\*]*\*", text).into_iter().map(|part| part.trim_matches('*'));
    let double = matches(r"\*\*[^\n\*]*\*\*", text).into_iter().map(|part| part.trim_matches('*'));
    single.chain(double).filter(|part| !strip(part).is_empty()).count()
}

/// JSON as Python reads it, with or without a Markdown fence around it.
fn is_json(text: &str) -> bool {
    let mut text = strip(text);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = strip(text.strip_suffix("```").unwrap_or(text));
    serde_json::from_str::<IgnoredAny>(&standard_json(text)).is_ok()
}

/// Two different texts around `******`.
fn two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").collect();
    let last = parts.len() - 1;
    if parts.iter().enumerate().any(|(at, part)| strip(part).is_empty() && at != 0 && at != last) {
        return false;
    }
    let full: Vec<&str> = parts.into_iter().map(strip).filter(|part| !part.is_empty()).collect();
    matches!(full.as_slice(), [first, second] if first != second)
}
