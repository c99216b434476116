//! JSON schemas as regular expressions over JSON texts.
//!
//! A regular expression can say what a schema of bounded depth says. JSON is written on one line, with at most one blank
//! after a colon or a comma, and the properties of an object stand in the order of the schema. What cannot be said is
//! refused by name.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A blank that may stand after a colon or a comma.
const BLANK: &str = " ?";
/// A text: no control characters, JSON's escapes.
const STRING: &str = r#""(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*""#;
/// The same without its quotation marks, for one character.
const CHARACTER: &str = r#"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))"#;
const INTEGER: &str = "-?(?:0|[1-9][0-9]*)";
const NUMBER: &str = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?";
/// How deep objects and lists lie in each other where the schema does not say.
const FREE_DEPTH: usize = 2;
/// How deep schemas lie in each other.
const DEPTH: usize = 16;
/// Largest count of characters or items.
const COUNT: u64 = 1000;
/// Longest expression.
const LENGTH: usize = 1 << 20;

/// Keywords that say nothing about which texts are allowed.
const WORDS: [&str; 10] = [
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// The pattern of any object, in which objects and lists lie up to three deep.
pub(super) fn any_object() -> String {
    object_of(&any(FREE_DEPTH))
}

/// The pattern of a schema.
///
/// # Errors
/// What of it is not supported, in words.
pub(super) fn pattern(schema: &Value) -> Result<String, String> {
    let pattern = Reader { root: schema, open: vec![] }.read(schema, 0)?;
    if pattern.len() > LENGTH {
        return Err(format!("the JSON schema is too large: its pattern has more than {LENGTH} bytes"));
    }
    Ok(pattern)
}

/// A text as the expression that matches it alone.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if "\\.+*?()|[]{}^$#&-~".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Any value, in which objects and lists lie so deep.
fn any(depth: usize) -> String {
    let mut pattern = format!("{STRING}|{NUMBER}|true|false|null");
    if depth > 0 {
        let inner = any(depth - 1);
        let _ = write!(pattern, "|{}|{}", list_of(&inner, 0, None), object_of(&inner));
    }
    format!("(?:{pattern})")
}

fn object_of(value: &str) -> String {
    let member = format!("{STRING}:{BLANK}{value}");
    format!(r"\{{(?:{member}(?:,{BLANK}{member})*)?\}}")
}

fn list_of(item: &str, least: u64, most: Option<u64>) -> String {
    let more = |least: u64, most: Option<u64>| match most {
        None => format!("(?:,{BLANK}{item}){{{least},}}"),
        Some(most) => format!("(?:,{BLANK}{item}){{{least},{most}}}"),
    };
    match (least, most) {
        (_, Some(0)) => r"\[\]".to_owned(),
        (0, most) => format!(r"\[(?:{item}{})?\]", more(0, most.map(|most| most - 1))),
        (least, most) => format!(r"\[{item}{}\]", more(least - 1, most.map(|most| most - 1))),
    }
}

/// A property as an object has it.
struct Member {
    pattern: String,
    required: bool,
}

/// The members from here on; `first` says that none stands before.
fn members(members: &[Member], first: bool) -> String {
    let Some((member, rest)) = members.split_first() else { return String::new() };
    let comma = if first { String::new() } else { format!(",{BLANK}") };
    let with = format!("{comma}{}{}", member.pattern, self::members(rest, false));
    match (member.required, first) {
        (true, _) => with,
        (false, false) => format!("(?:{comma}{})?{}", member.pattern, self::members(rest, false)),
        (false, true) => format!("(?:{with}|{})", self::members(rest, true)),
    }
}

struct Reader<'a> {
    root: &'a Value,
    /// References that are being followed.
    open: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, schema: &'a Value, depth: usize) -> Result<String, String> {
        if depth > DEPTH {
            return Err(format!("JSON schemas more than {DEPTH} deep are not supported"));
        }
        let map = match schema {
            Value::Bool(true) => return Ok(any(FREE_DEPTH)),
            Value::Object(map) => map,
            other => return Err(format!("the JSON schema {other} is not supported: expected an object")),
        };
        if let Some(reference) = map.get("$ref") {
            only(map, &["$ref", "$defs", "definitions"])?;
            return self.follow(reference, depth);
        }
        if let Some(value) = map.get("const") {
            only(map, &["const", "type"])?;
            return Ok(escape(&value.to_string()));
        }
        if let Some(values) = map.get("enum") {
            only(map, &["enum", "type"])?;
            let values = values.as_array().filter(|values| !values.is_empty());
            let values = values.ok_or("enum: expected a list of values")?;
            return Ok(one_of(values.iter().map(|value| escape(&value.to_string()))));
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(schemas) = map.get(key) {
                only(map, &[key, "$defs", "definitions"])?;
                let schemas = schemas.as_array().filter(|schemas| !schemas.is_empty());
                let schemas = schemas.ok_or_else(|| format!("{key}: expected a list of schemas"))?;
                let read = schemas.iter().map(|schema| self.read(schema, depth + 1));
                return Ok(one_of(read.collect::<Result<Vec<_>, _>>()?));
            }
        }
        match map.get("type") {
            Some(Value::String(kind)) => self.of_type(kind, map, depth),
            Some(Value::Array(kinds)) if !kinds.is_empty() => {
                let read = kinds.iter().map(|kind| match kind.as_str() {
                    Some(kind @ ("string" | "integer" | "number" | "boolean" | "null")) => {
                        only(map, &["type"])?;
                        self.of_type(kind, map, depth)
                    }
                    _ => Err(format!("type {kind} in a list of types is not supported")),
                });
                Ok(one_of(read.collect::<Result<Vec<_>, _>>()?))
            }
            Some(other) => Err(format!("type {other} is not supported")),
            None if map.contains_key("properties") => self.of_type("object", map, depth),
            None if map.contains_key("items") => self.of_type("array", map, depth),
            None => {
                only(map, &["$defs", "definitions"])?;
                Ok(any(FREE_DEPTH))
            }
        }
    }

    fn of_type(&mut self, kind: &str, map: &'a Map<String, Value>, depth: usize) -> Result<String, String> {
        match kind {
            "string" => {
                only(map, &["type", "minLength", "maxLength"])?;
                let (least, most) = (count(map, "minLength")?, count(map, "maxLength")?);
                Ok(match (least.unwrap_or(0), most) {
                    (0, None) => STRING.to_owned(),
                    (least, None) => format!("\"{CHARACTER}{{{least},}}\""),
                    (least, Some(most)) if least <= most => format!("\"{CHARACTER}{{{least},{most}}}\""),
                    _ => return Err("minLength is above maxLength".to_owned()),
                })
            }
            "integer" => only(map, &["type"]).map(|()| INTEGER.to_owned()),
            "number" => only(map, &["type"]).map(|()| NUMBER.to_owned()),
            "boolean" => only(map, &["type"]).map(|()| "(?:true|false)".to_owned()),
            "null" => only(map, &["type"]).map(|()| "null".to_owned()),
            "array" => {
                only(map, &["type", "items", "minItems", "maxItems", "$defs", "definitions"])?;
                let item =
                    map.get("items").map_or_else(|| Ok(any(FREE_DEPTH - 1)), |items| self.read(items, depth + 1))?;
                let (least, most) = (count(map, "minItems")?.unwrap_or(0), count(map, "maxItems")?);
                if most.is_some_and(|most| least > most) {
                    return Err("minItems is above maxItems".to_owned());
                }
                Ok(list_of(&item, least, most))
            }
            "object" => self.object(map, depth),
            other => Err(format!("type {other:?} is not supported")),
        }
    }

    fn object(&mut self, map: &'a Map<String, Value>, depth: usize) -> Result<String, String> {
        only(map, &["type", "properties", "required", "additionalProperties", "$defs", "definitions"])?;
        let none = Map::new();
        let properties = match map.get("properties") {
            None => None,
            Some(Value::Object(properties)) => Some(properties),
            Some(_) => return Err("properties: expected an object".to_owned()),
        };
        let required: Vec<&str> = match map.get("required") {
            None => vec![],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => return Err("required: expected a list of names".to_owned()),
        };
        if let Some(name) = required.iter().find(|&&name| !properties.unwrap_or(&none).contains_key(name)) {
            return Err(format!("required {name:?} is not among the properties"));
        }
        let Some(properties) = properties else {
            return match map.get("additionalProperties") {
                None | Some(Value::Bool(true)) => Ok(object_of(&any(FREE_DEPTH - 1))),
                Some(Value::Bool(false)) => Ok(r"\{\}".to_owned()),
                Some(values) => Ok(object_of(&self.read(values, depth + 1)?)),
            };
        };
        // Further properties are allowed by a schema that does not say otherwise; none are written.
        if !matches!(map.get("additionalProperties"), None | Some(Value::Bool(_))) {
            return Err("additionalProperties beside properties is not supported".to_owned());
        }
        let read = properties.iter().map(|(name, schema)| {
            let value = self.read(schema, depth + 1)?;
            let pattern = format!("{}:{BLANK}{value}", escape(&Value::from(name.as_str()).to_string()));
            Ok(Member { pattern, required: required.contains(&name.as_str()) })
        });
        let read = read.collect::<Result<Vec<_>, String>>()?;
        Ok(format!(r"\{{{}\}}", members(&read, true)))
    }

    fn follow(&mut self, reference: &'a Value, depth: usize) -> Result<String, String> {
        let name = reference.as_str().ok_or("$ref: expected a text")?;
        if self.open.contains(&name) {
            return Err(format!("$ref {name:?} leads to itself, which is not supported"));
        }
        let target = name.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let target = target.ok_or_else(|| format!("$ref {name:?} is not supported: expected a place in the schema"))?;
        self.open.push(name);
        let read = self.read(target, depth + 1);
        self.open.pop();
        read
    }
}

/// Refuses keywords that are not among those known.
fn only(map: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match map.keys().find(|key| !known.contains(&key.as_str()) && !WORDS.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("{key} is not supported in this place of a JSON schema")),
    }
}

fn count(map: &Map<String, Value>, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = map.get(key) else { return Ok(None) };
    let count = value.as_u64().filter(|&count| count <= COUNT);
    count.map(Some).ok_or_else(|| format!("{key} {value}: expected a whole number up to {COUNT}"))
}

fn one_of(patterns: impl IntoIterator<Item = String>) -> String {
    format!("(?:{})", patterns.into_iter().collect::<Vec<_>>().join("|"))
}

#[cfg(test)]
mod tests {
    use regex::Regex;
    use serde_json::json;

    use super::*;

    fn accepts(pattern: &str, text: &str) -> bool {
        Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
    }

    #[test]
    fn objects_have_their_properties_in_order() {
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "age"], "properties": {
            "nick": {"type": "string"}, "name": {"type": "string", "maxLength": 5}, "tags": {"type": "array",
            "items": {"enum": ["a", "b.c"]}, "maxItems": 2}, "age": {"$ref": "#/$defs/age"}},
            "$defs": {"age": {"type": ["integer", "null"]}}});
        let pattern = pattern(&schema).unwrap();
        for (text, expected) in [
            (r#"{"name": "Ann", "age": 3}"#, true),
            (r#"{"name":"Ann","age":null}"#, true),
            (r#"{"nick":"x","name":"Ann","tags":["a","b.c"],"age":-10}"#, true),
            (r#"{"name":"Ann","tags":[],"age":0}"#, true),
            (r#"{"name":"Ann","tags":["a","a","a"],"age":0}"#, false),
            (r#"{"name":"Ann","tags":["bxc"],"age":0}"#, false),
            (r#"{"name":"Johannes","age":3}"#, false),
            (r#"{"name":"Ann","age":03}"#, false),
            (r#"{"name":"Ann"}"#, false),
            (r#"{,"name":"Ann","age":3}"#, false),
        ] {
            assert_eq!(accepts(&pattern, text), expected, "{text}");
            assert!(!expected || serde_json::from_str::<Value>(text).is_ok());
        }
    }

    #[test]
    fn optional_members_need_no_first_one() {
        let schema = json!({"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}});
        let pattern = pattern(&schema).unwrap();
        for mask in 0..8 {
            let names = ["a", "b", "c"].iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
            let text: Vec<String> = names.map(|(_, name)| format!("\"{name}\":null")).collect();
            assert!(accepts(&pattern, &format!("{{{}}}", text.join(","))), "{text:?}");
        }
        assert!(!accepts(&pattern, r#"{"b":null,"a":null}"#));
    }

    #[test]
    fn any_object_is_json() {
        let pattern = any_object();
        for text in [r"{}", r#"{"a": [1, {"b": "\"\u00e9"}], "c": -1.5e3}"#] {
            assert!(accepts(&pattern, text) && serde_json::from_str::<Value>(text).is_ok(), "{text}");
        }
        for text in ["[]", r#"{"a":}"#, r#"{"a":1,}"#, "{\"a\":\"\n\"}", r#"{"a":[[[1]]]}"#] {
            assert!(!accepts(&pattern, text), "{text}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (schema, name) in [
            (json!({"type": "string", "pattern": "a+"}), "pattern"),
            (json!({"type": "integer", "minimum": 3}), "minimum"),
            (json!({"allOf": [{"type": "string"}]}), "allOf"),
            (json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}), "itself"),
            (json!({"type": "object", "required": ["x"]}), "\"x\""),
            (json!({"type": "string", "maxLength": 100_000}), "maxLength 100000"),
        ] {
            let error = pattern(&schema).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
