//! What a run does otherwise than its recipe says.

use harness_evaluation::training::Changes;
use harness_training::recipe::Sharding;

use crate::{cli::TrainArgs, failure::Failure};

/// What the arguments of a run say.
///
/// # Errors
/// If one of them is no key with a value.
pub(crate) fn changes_of(args: &TrainArgs) -> Result<Changes, Failure> {
    let sharding = args.sharding.as_ref().map(|kind| if kind == "fsdp" { Sharding::Fsdp } else { Sharding::None });
    Ok(Changes { max_steps: args.max_steps, sharding, ..changes(&args.set)? })
}

/// Keys of the recipe alone, as `KEY=VALUE`; a value that is no TOML is a text.
///
/// # Errors
/// If one of them is no key with a value.
pub(crate) fn changes(set: &[String]) -> Result<Changes, Failure> {
    let read = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| {
            Failure::usage(format!("--set {text}: expected KEY=VALUE, such as training.learning_rate=1e-4"))
        })?;
        let toml = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
        Ok((key.trim().to_owned(), toml.unwrap_or_else(|| toml::Value::String(value.to_owned()))))
    };
    Ok(Changes { set: set.iter().map(read).collect::<Result<_, Failure>>()?, ..Changes::default() })
}
