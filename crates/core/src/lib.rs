//! Types every other crate speaks: documents, requests, responses, scores, models and seeds.
//!
//! No tensors, and no I/O but one function, [`atomic_write`]: this crate is the seam between the engine that answers requests, the tasks that
//! ask and score them, the store that keeps them and the statistics that compare them.

mod atomic;
mod canonical;
mod chat_kwargs;
mod digest;
mod document;
mod file_name;
mod finish;
mod guard;
mod holding;
mod limits;
mod model;
mod nearest;
mod read;
mod request;
mod response;
mod rolling;
mod score;
mod seed;
mod split;
mod split_name;
mod stop;
mod thinking;
mod visible;

pub use atomic::{atomic_rename, atomic_replace, atomic_write, atomic_write_with, temporary};
pub use canonical::canonical_json;
pub use chat_kwargs::ChatKwargs;
pub use digest::{Digest, Hasher, ParseDigestError};
pub use document::{DocId, Document};
pub use file_name::{file_name, file_part, name_of_file_part};
pub use finish::Finish;
pub use guard::{guarded, watch_panics};
pub use holding::{before_a_beginning, before_a_stop};
pub use limits::{LIMIT_MARK, Limits, bytes_in_words, limit_name, limits, set_limits};
pub use model::{
    Capabilities, ChatMessage, ChatOptions, ChatRole, Control, LanguageModel, ModelError, ModelIdentity, ModelStats,
    PairTokens, stream_whole,
};
pub use nearest::{nearest, nearest_few};
pub use read::{open_file, read_file, read_text};
pub use request::{Request, RequestKey, Sampling};
pub use response::{Irregular, Output, Response, TopLogprob, Usage};
pub use rolling::{RollingWindow, rolling_windows};
pub use score::{MetricKey, SampleScore};
pub use seed::{Seed, StreamRng};
pub use split::{Split, split_80_10_10};
pub use split_name::SplitName;
pub use stop::{Stop, Unsaved};
pub use thinking::{
    CHAT_PROMPT_MARK, THINK_END, Thinking, begins_in_thinking, cut_at_stops, opens_marked_thinking, opens_thinking,
    split_marked_thinking, split_opened_thinking, split_thinking, split_thinking_after, thinking_marks,
};
pub use visible::{is_hidden, visible, visible_json};
