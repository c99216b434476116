//! What a document says: its fields through the templates of the definition.

use std::collections::BTreeSet;

use harness_store::Row;
use minijinja::Value as Columns;
use serde_json::Value;

use crate::{
    DeclarativeTask, Gold, OutputType, TaskError,
    config::Field,
    error::no_column,
    resolved::{Resolved, Turn},
    template::{Template, columns},
};
use harness_python::{literal_eval, str as python_str};

impl DeclarativeTask {
    /// A column, a rendered template, or a literal.
    pub(crate) fn field(&self, field: &Field, row: &Row, context: &Columns) -> Result<(Value, bool), String> {
        match field {
            Field::Literal(value) => Ok((value.clone(), false)),
            Field::Native(function) => Ok((function(row)?, false)),
            Field::Template(template) => {
                if row.contains_key(template.source()) || self.columns.contains(template.source()) {
                    let value = row.get(template.source());
                    return value
                        .cloned()
                        .map(|v| (v, false))
                        .ok_or_else(|| format!("the column {} is missing", template.source()));
                }
                Ok((Value::from(template.render(context)?), true))
            }
        }
    }

    pub(crate) fn text_of(&self, template: Option<&Template>, row: &Row, context: &Columns) -> Result<String, String> {
        let Some(template) = template else { return Ok(String::new()) };
        match row.get(template.source()) {
            Some(value) => Ok(python_str(value)),
            None => template.render(context),
        }
    }

    pub(crate) fn integer(&self, text: &str) -> Option<Value> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (digits && self.config.doc_to_choice.is_some()).then(|| text.parse::<i64>().ok().map(Value::from)).flatten()
    }

    pub(crate) fn question(&self, field: &Field, row: &Row, context: &Columns) -> Result<Value, String> {
        let (value, rendered) = self.field(field, row, context)?;
        Ok(match value.as_str().filter(|_| rendered).and_then(|text| self.integer(text)) {
            Some(integer) => integer,
            None => value,
        })
    }

    pub(crate) fn target(&self, field: &Field, row: &Row, context: &Columns) -> Result<Value, String> {
        let (value, rendered) = self.field(field, row, context)?;
        let Some(text) = value.as_str().filter(|_| rendered) else { return Ok(value) };
        if let Some(integer) = self.integer(text) {
            return Ok(integer);
        }
        if text.len() >= 2 && text.starts_with('[') && text.ends_with(']') {
            return Ok(literal_eval(text).unwrap_or(value));
        }
        Ok(value)
    }

    pub(crate) fn choices(&self, field: Option<&Field>, row: &Row, context: &Columns) -> Result<Vec<String>, String> {
        let Some(field) = field else { return Ok(Vec::new()) };
        let (value, rendered) = self.field(field, row, context)?;
        let list = match (rendered, value) {
            (true, Value::String(text)) => literal_eval(&text).ok_or_else(|| format!("{text:?} is not a list"))?,
            (_, value) => value,
        };
        let Value::Array(items) = list else { return Err(format!("must give a list, found {list}")) };
        if items.is_empty() {
            return Err("gives no choices".to_owned());
        }
        items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                other => Err(format!("choices must be strings, found {other}")),
            })
            .collect()
    }

    /// What is wrong with the definition's fields for these rows as a whole: a column that none of them has, or that holds
    /// nothing in any; with the field's key.
    pub(crate) fn missing_column(
        &self,
        [question, choices, target]: [Option<&Field>; 3],
        rows: &[&Row],
    ) -> Option<(&'static str, String)> {
        // A target may be one of the choices, the same for all documents; where a function computes the scores, none is needed.
        let fixed = |word: &str| match choices {
            Some(Field::Literal(Value::Array(choices))) => choices.iter().any(|choice| choice == word),
            _ => false,
        };
        let target =
            target.filter(|target| self.config.process_results.is_none() && !target.column().is_some_and(fixed));
        let fields = [("doc_to_text", question), ("doc_to_choice", choices), ("doc_to_target", target)];
        fields.into_iter().filter(|_| !rows.is_empty()).find_map(|(key, field)| {
            let column = field?.column()?;
            let mut values = rows.iter().filter_map(|row| row.get(column)).peekable();
            if values.peek().is_none() {
                let columns: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
                return Some((key, no_column(&[column], columns)));
            }
            values.all(Value::is_null).then(|| (key, format!("the column {column} is null in all rows")))
        })
    }

    /// The fields of one evaluated document.
    pub(crate) fn resolve(&self, row: &Row, index: usize) -> Result<Resolved, TaskError> {
        let context = columns(row);
        let error = |key: &str, message| self.document_error(&self.split, index, key, message);
        Ok(Resolved {
            question: self.question(&self.config.doc_to_text, row, &context).map_err(|m| error("doc_to_text", m))?,
            choices: self
                .choices(self.config.doc_to_choice.as_ref(), row, &context)
                .map_err(|m| error("doc_to_choice", m))?,
            target: self.target(&self.config.doc_to_target, row, &context).map_err(|m| error("doc_to_target", m))?,
        })
    }

    /// Question and answer of an example.
    pub(crate) fn turn(&self, row: &Row) -> Result<Turn, (&'static str, String)> {
        let context = columns(row);
        let fewshot = &self.config.fewshot;
        let question = self.question(&fewshot.doc_to_text, row, &context).map_err(|m| ("doc_to_text", m))?;
        let choices = self.choices(fewshot.doc_to_choice.as_ref(), row, &context).map_err(|m| ("doc_to_choice", m))?;
        let target = self.target(&fewshot.doc_to_target, row, &context).map_err(|m| ("doc_to_target", m))?;
        let pick = |value: &Value| -> Option<String> {
            let index = match value {
                Value::Bool(b) => usize::from(*b),
                other => usize::try_from(other.as_i64()?).ok()?,
            };
            choices.get(index).cloned()
        };
        let question = match &question {
            Value::String(text) => text.clone(),
            other if self.multiple_input => {
                pick(other).ok_or(("doc_to_text", format!("{other} is not the number of a choice")))?
            }
            other => return Err(("doc_to_text", format!("must give a string, found {other}"))),
        };
        let target = match target {
            Value::Array(items) => items.into_iter().next().unwrap_or(Value::Null),
            other => other,
        };
        let answer = match &target {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => pick(other)
                .ok_or(("doc_to_target", format!("{other} is neither a string nor the number of a choice")))?,
        };
        Ok(Turn { question, answer })
    }

    /// What the answer is compared with, and the target as text.
    pub(crate) fn gold(
        &self,
        question: &Value,
        choices: &[String],
        target: &Value,
    ) -> Result<(Gold, String), (&'static str, String)> {
        let choice = |value: &Value| -> Option<usize> {
            match value {
                Value::String(text) => choices.iter().position(|choice| choice == text),
                Value::Bool(b) => Some(usize::from(*b)),
                other => other.as_i64().and_then(|i| usize::try_from(i).ok()),
            }
            .filter(|&i| i < choices.len())
        };
        let text = python_str(target);
        let gold = match self.config.output_type {
            OutputType::MultipleChoice if self.multiple_input => Gold::Choice(choice(question)),
            OutputType::MultipleChoice => match target {
                Value::Array(items) => Gold::Choices(items.iter().filter_map(choice).collect()),
                Value::Null | Value::Object(_) => {
                    return Err(("doc_to_target", format!("must give a number, a text or a list, found {target}")));
                }
                other => Gold::Choice(choice(other)),
            },
            OutputType::GenerateUntil if !choices.is_empty() => match choice(target) {
                Some(index) => Gold::Text(choices[index].clone()),
                None => return Err(("doc_to_target", format!("{target} is not the number of a choice"))),
            },
            OutputType::GenerateUntil => match target {
                Value::Array(items) => Gold::Texts(items.iter().map(python_str).collect()),
                _ => Gold::Text(text.clone()),
            },
            OutputType::LogLikelihood | OutputType::LogLikelihoodRolling => match target {
                Value::String(_) => Gold::Text(text.clone()),
                other => return Err(("doc_to_target", format!("must give a string, found {other}"))),
            },
        };
        let text = match &gold {
            Gold::Text(gold) if self.config.output_type == OutputType::GenerateUntil && !choices.is_empty() => {
                gold.clone()
            }
            _ => text,
        };
        Ok((gold, text))
    }
}
