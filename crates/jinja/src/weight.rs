//! How large a value is.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

use crate::budget::{charge, exceeded_value, limits};

/// Nesting of lists and maps; printing, comparing and dropping a value recurse as deep.
const DEPTH: usize = 100;

/// Bytes of an element beside its content.
const ELEMENT: usize = 24;

/// What a value weighs, all that it holds included; what several places share counts in each, as it would be printed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    /// Bytes of texts, and of the elements that hold them.
    pub bytes: usize,
    /// Values, this one included.
    pub values: usize,
    /// Nesting of lists and maps.
    pub depth: usize,
}

/// Takes the weight of a value off the budget of this rendering.
///
/// # Errors
/// If it is too large or too deep.
pub(crate) fn weigh(value: &Value) -> Result<(), Error> {
    charge(weight(value)?.bytes)
}

/// The weight of a value.
///
/// # Errors
/// If it is too large or too deep.
pub(crate) fn weight(value: &Value) -> Result<Weight, Error> {
    let mut sum = Weight::default();
    add(value, &mut sum, limits().template_value, 0)?;
    Ok(sum)
}

fn add(value: &Value, sum: &mut Weight, limit: usize, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("the template nests values more than {DEPTH} deep, which is the limit"),
        ));
    }
    let own = match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Bytes => value.as_bytes().map_or(0, <[u8]>::len),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.len().unwrap_or(0).saturating_mul(ELEMENT),
        _ => 0,
    };
    sum.bytes = sum.bytes.saturating_add(own);
    sum.values += 1;
    sum.depth = sum.depth.max(depth);
    if sum.bytes > limit {
        return Err(exceeded_value(limit));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            value.try_iter()?.try_for_each(|item| add(&item, sum, limit, depth + 1))
        }
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            add(&key, sum, limit, depth + 1)?;
            add(&value.get_item(&key)?, sum, limit, depth + 1)
        }),
        _ => Ok(()),
    }
}
