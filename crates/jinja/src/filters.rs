//! Filters and methods whose output can be far larger than their input: how much they would make is reckoned before they
//! run.

use harness_core::limits;
use minijinja::{
    Environment, Error, State, Value, filters,
    value::{Rest, ValueKind, ValueOrKwargs},
};

use crate::{
    budget::{charge, exceeded},
    compile::WEIGHED,
    weight::{weigh, weight},
};

/// Bytes of an element that a filter adds to a list.
const ELEMENT: usize = 24;

/// An environment whose own filters keep to the budget.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter(WEIGHED, |value: &Value| weigh(value).map(|()| value.clone()));
    for (name, filter) in [
        ("replace", Value::from_function(filters::replace)),
        ("join", Value::from_function(filters::join)),
        ("indent", Value::from_function(filters::indent)),
        ("tojson", Value::from_function(filters::tojson)),
        ("pprint", Value::from_function(filters::pprint)),
        ("format", Value::from_function(filters::format)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("sum", Value::from_function(filters::sum)),
    ] {
        add_multiplying_filter(&mut environment, name, filter);
    }
    environment
}

/// Adds a filter that can make much of little; `name` is one of those that are reckoned here.
pub fn add_multiplying_filter(environment: &mut Environment<'static>, name: &'static str, filter: Value) {
    environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        admit(name, &arguments)?;
        filter.call(state, &arguments)
    });
}

/// Takes what a method of a text or list would make off the budget.
///
/// # Errors
/// If it would be too much.
pub(crate) fn admit_method(value: &Value, name: &str, arguments: &[Value]) -> Result<(), Error> {
    let mut all = vec![value.clone()];
    all.extend_from_slice(arguments);
    if name == "join" {
        // The text is the separator.
        all.reverse();
    }
    admit(name, &all)
}

/// Takes what a filter would make off the budget.
fn admit(name: &str, arguments: &[Value]) -> Result<(), Error> {
    let Some(value) = arguments.first() else { return Ok(()) };
    let len = |at: usize| arguments.get(at).and_then(Value::as_str).map_or(0, str::len);
    let made = match name {
        "replace" => {
            let (text, from) = (value.as_str().unwrap_or_default(), arguments.get(1).and_then(Value::as_str));
            let found = from.map_or(0, |from| text.matches(from).count());
            found.saturating_mul(len(2))
        }
        // Every group of the replacement can stand for all that was matched.
        "regex_replace" => {
            let groups = arguments.get(2).and_then(Value::as_str).map_or(0, |text| text.matches(['\\', '$']).count());
            (len(0) + 1).saturating_mul(len(2)).saturating_add(len(0).saturating_mul(groups))
        }
        "join" => value.len().unwrap_or(0).saturating_mul(len(1)).saturating_add(weight(value)?.bytes),
        "indent" => {
            let lines = value.as_str().map_or(1, |text| text.matches('\n').count() + 1);
            lines.saturating_mul(largest(&arguments[1..]))
        }
        "tojson" | "pprint" => {
            let all = weight(value)?;
            all.bytes + all.values.saturating_mul(all.depth + 1).saturating_mul(largest(&arguments[1..]).max(4))
        }
        "format" => formatted(value.as_str().unwrap_or_default(), &arguments[1..])?,
        "batch" | "slice" => largest(&arguments[1..]).saturating_mul(ELEMENT),
        "sum" => {
            let numbers = value.try_iter()?.all(|item| item.kind() == ValueKind::Number);
            if numbers { 0 } else { weight(value)?.bytes.saturating_mul(value.len().unwrap_or(0)) }
        }
        _ => 0,
    };
    charge(made)
}

/// The largest number among arguments.
fn largest(arguments: &[Value]) -> usize {
    let numbers = arguments.iter().map(|argument| match argument.kind() {
        ValueKind::Number => argument.as_usize().unwrap_or(if argument.is_integer() { usize::MAX } else { 0 }),
        ValueKind::Map => {
            let values: Vec<Value> = argument
                .try_iter()
                .map(|keys| keys.filter_map(|key| argument.get_item(&key).ok()).collect())
                .unwrap_or_default();
            if values.iter().any(|value| value.kind() == ValueKind::Map) { 0 } else { largest(&values) }
        }
        _ => 0,
    });
    numbers.max().unwrap_or(0)
}

/// What a format can make: its widths, and its arguments for every field.
fn formatted(format: &str, arguments: &[Value]) -> Result<usize, Error> {
    let most = limits().template_columns;
    let mut widths = 0_usize;
    for digits in format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        let width = digits.parse().unwrap_or(usize::MAX);
        if width > most {
            return Err(exceeded(format!("a field of {digits} columns, more than {most}"), "template_columns"));
        }
        widths = widths.saturating_add(width);
    }
    if format.contains('*') && largest(arguments) > most {
        return Err(exceeded(format!("a field of more than {most} columns"), "template_columns"));
    }
    let fields = format.matches(['{', '%']).count();
    let bytes = arguments.iter().map(|argument| Ok(weight(argument)?.bytes)).sum::<Result<usize, Error>>()?;
    Ok(widths
        .saturating_add(fields.saturating_mul(bytes))
        .saturating_add(format.matches('*').count().saturating_mul(most)))
}
