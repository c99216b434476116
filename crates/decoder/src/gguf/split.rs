//! Models in several GGUF files, as llama-gguf-split writes them.

use std::{collections::BTreeMap, path::Path};

use harness_core::SplitName;

use super::{
    Part,
    format::{Value, unsigned},
};
use crate::DecoderError;

/// The only key that differs between the parts of a model.
const NUMBER: &str = "split.no";

/// Opens a file and, if it is a part of a model, the parts beside it, in their order.
pub(super) fn open(path: &Path) -> Result<Vec<Part>, DecoderError> {
    let named = Part::open(path)?;
    let count = named.number("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![named]);
    }
    let index = named.number(NUMBER)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = SplitName::parse(&file_name).filter(|name| name.count == count && Some(name.index) == index);
    let Some(name) = name else {
        let number = index.map_or_else(|| "one".to_owned(), |index| format!("number {}", index + 1));
        return Err(named.error(format!(
            "{number} of the {count} files of a split model, but not named like it (NAME-00001-of-{count:05}.gguf); give all \
             parts their names again, or join them with llama-gguf-split --merge"
        )));
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let missing: Vec<String> = name.parts().filter(|part| !folder.join(part).is_file()).collect();
    if !missing.is_empty() {
        return Err(DecoderError::Missing {
            path: folder.to_owned(),
            what: missing.join(", "),
            hint: format!("{file_name} is number {} of the {count} files of a model", name.index + 1),
        });
    }
    let mut parts = Vec::with_capacity(count);
    for index in 0..count {
        let part = Part::open(&folder.join(name.part(index)))?;
        let found = (part.number(NUMBER)?, part.number("split.count")?);
        if found != (Some(index), Some(count)) {
            let number = |number: Option<usize>| number.map_or("none".to_owned(), |number| number.to_string());
            return Err(part.error(format!(
                "`split.no` is {} and `split.count` {}, expected {index} and {count} by its name; it belongs to another model",
                number(found.0),
                number(found.1)
            )));
        }
        parts.push(part);
    }
    for part in &parts[1..] {
        let first = &parts[0].content.metadata;
        let differs = |(key, value): &(&String, &Value)| {
            key.as_str() != NUMBER && first.get(*key).is_some_and(|other| format!("{other:?}") != format!("{value:?}"))
        };
        let mut differing: Vec<&String> = part.content.metadata.iter().filter(differs).map(|(key, _)| key).collect();
        differing.sort();
        if let Some(key) = differing.first() {
            return Err(
                part.error(format!("`{key}` is not that of the first part; the parts belong to different models"))
            );
        }
    }
    Ok(parts)
}

/// The part that each tensor lies in.
pub(super) fn places(parts: &[Part]) -> Result<BTreeMap<String, usize>, DecoderError> {
    let mut places = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        for name in part.content.tensors.keys() {
            if let Some(other) = places.insert(name.clone(), index) {
                let other = parts[other].path.display();
                return Err(
                    part.error(format!("tensor `{name}` is in {other} too; the parts belong to different models"))
                );
            }
        }
    }
    match parts[0].number("split.tensors.count")? {
        Some(count) if parts.len() > 1 && count != places.len() => Err(parts[0].error(format!(
            "the model has {count} tensors by `split.tensors.count`, its {} files have {}; the parts belong to different \
             models",
            parts.len(),
            places.len()
        ))),
        _ => Ok(places),
    }
}

impl Part {
    /// A count in this file's metadata.
    fn number(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        // llama-gguf-split writes the tensors' count as a signed integer.
        unsigned(value)
            .map(|number| Some(number as usize))
            .ok_or_else(|| self.error(format!("`{key}`: found {value:?}, expected an unsigned integer")))
    }
}
