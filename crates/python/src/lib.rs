//! What CPython 3.12 does, to the last bit and letter, where the tools that the harness is held against rely on it: the
//! Mersenne Twister, `json`, `str` and `repr`, `re`, literals, `strftime` with glibc.

mod json;
mod literal;
mod random;
mod regex;
mod regex_syntax;
mod repr;
mod text;
mod time;

pub use json::{PythonJson, python_float, standard_json};
pub use literal::literal_eval;
pub use random::PythonRandom;
pub use regex::{PythonRegex, RegexError};
pub use regex_syntax::translate_python_regex;
pub use repr::{float_repr, quote, repr, str};
pub use text::{is_ascii_punctuation, is_space, split_whitespace, title, trim, trim_end};
pub use time::CivilTime;
