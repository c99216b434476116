//! Why a generation ended.

use serde::{Deserialize, Serialize};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The end-of-sequence token.
    EndOfSequence,
    /// A stop string, or the end of the request's pattern.
    Stop,
    /// The limit on new tokens, or the model's context length.
    Length,
    /// A filter of the server withheld the answer, or the rest of it.
    ContentFilter,
    /// The model refused, and the server says so; the text is the refusal.
    Refusal,
    /// The model called a tool and wrote no text.
    ToolCall,
    /// The server gave null in place of a text, and no reason.
    NoContent,
    /// The server gave a list of choices without one.
    NoChoice,
    /// A reason that this program does not know.
    Unknown,
}
