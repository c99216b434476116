//! Protocols as TOML files.

use std::path::{Path, PathBuf};

use harness_core::Sampling;
use serde::Deserialize;

use super::{LEAST_LABEL_SHARE, Layout, PromptTemplate, Protocol, Retry};
use crate::{
    JudgesError, Kind, Location, Parser, Result, Template,
    error::nearest,
    placeholders::{ABSOLUTE, PAIRWISE},
    prompt_file::{self, PromptText},
    toml_text::{line_of, toml_error},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: u32,
    #[serde(default)]
    description: String,
    kind: Kind,
    #[serde(default = "one")]
    turns: usize,
    #[serde(default)]
    layout: Layout,
    parser: toml::Spanned<String>,
    scale: Option<[f64; 2]>,
    labels: Option<[String; 2]>,
    #[serde(default = "five")]
    top_logprobs: usize,
    least_label_share: Option<toml::Spanned<f64>>,
    #[serde(default)]
    sampling: SamplingFile,
    #[serde(default)]
    retry: Retry,
    constraint: Option<toml::Spanned<String>>,
    reference_categories: Option<Vec<String>>,
    #[serde(default)]
    equal_outputs_tie: bool,
    placeholders: toml::Spanned<Vec<String>>,
    prompt_file: Option<String>,
    template: Vec<TemplateFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    name: toml::Spanned<String>,
    turn: Option<usize>,
    reference: Option<bool>,
    system: Option<toml::Spanned<String>>,
    user: Option<toml::Spanned<String>>,
    prompt_file: Option<String>,
}

/// The keys of [`Sampling`] a protocol may set; anything else is an error instead of being ignored.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SamplingFile {
    max_new_tokens: Option<usize>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
}

fn one() -> usize {
    1
}

fn five() -> usize {
    5
}

impl Protocol {
    /// Reads a protocol from TOML. Prompt files are looked for beside `file`, which is also named in errors.
    ///
    /// # Errors
    /// For bad TOML, a setting out of range, a placeholder that nothing fills, or a prompt file that cannot be read.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let raw: File = toml::from_str(text).map_err(|error| toml_error(&name, text, &error))?;
        let line = |start: usize| Some(line_of(text, start));
        let setting = |key: &str, line, found: String, expected: &str| JudgesError::Setting {
            at: Location::new(&name, line),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        let parser = Parser::from_name(raw.parser.as_ref()).ok_or_else(|| {
            let found = format!("\"{}\"", raw.parser.as_ref());
            setting("parser", line(raw.parser.span().start), found, &Parser::names().join(", "))
        })?;
        if raw.turns == 0 {
            return Err(setting("turns", None, "0".into(), "at least 1"));
        }
        if raw.retry.attempts == 0 {
            return Err(setting("retry.attempts", None, "0".into(), "at least 1"));
        }
        if raw.kind == Kind::Absolute && raw.scale.is_none_or(|[low, high]| low.is_nan() || low >= high) {
            let found = raw.scale.map_or("missing".into(), |scale| format!("{scale:?}"));
            return Err(setting("scale", None, found, "the lowest and the highest score, e.g. [1, 5]"));
        }
        if (parser == Parser::Labels) != raw.labels.is_some() {
            let found = if raw.labels.is_some() { "set" } else { "missing" };
            return Err(setting("labels", None, found.into(), "two labels with parser \"labels\", and none without"));
        }
        if let Some(share) = &raw.least_label_share
            && (raw.labels.is_none() || !(0.0..=1.0).contains(share.as_ref()))
        {
            let found = if raw.labels.is_none() { "set without labels".into() } else { share.as_ref().to_string() };
            let expected = "a share from 0 to 1, in a protocol with labels";
            return Err(setting("least_label_share", line(share.span().start), found, expected));
        }
        if let Some(pattern) = &raw.constraint
            && let Err(error) = regex::Regex::new(pattern.as_ref())
        {
            return Err(setting("constraint", line(pattern.span().start), error.to_string(), "a regular expression"));
        }
        let declared = declared(&raw, &name, text)?;
        let sampling = sampling(&raw.sampling, &name)?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        let mut templates = vec![];
        for raw in &raw.template {
            templates.push(template(raw, &name, text, &folder, &declared)?);
        }
        if templates.is_empty() {
            return Err(setting("template", None, "empty".into(), "at least one prompt"));
        }
        let mut protocol = Self {
            name: raw.name,
            version: raw.version,
            description: raw.description,
            kind: raw.kind,
            turns: raw.turns,
            layout: raw.layout,
            parser,
            scale: raw.scale,
            labels: raw.labels,
            top_logprobs: raw.top_logprobs,
            least_label_share: raw.least_label_share.map_or(LEAST_LABEL_SHARE, toml::Spanned::into_inner),
            sampling,
            retry: raw.retry,
            constraint: raw.constraint.map(toml::Spanned::into_inner),
            reference_categories: raw.reference_categories,
            equal_outputs_tie: raw.equal_outputs_tie,
            templates,
        };
        let at = Location::new(&name, None);
        protocol.templates.iter().try_for_each(|template| protocol.sees_everything(template, &at))?;
        if let Some(prompts) = raw.prompt_file {
            protocol = protocol.with_prompt_file(&folder.join(prompts))?;
        }
        Ok(protocol)
    }
}

/// The declared placeholders, after checking that each is one that is filled.
fn declared(raw: &File, file: &str, text: &str) -> Result<Vec<String>> {
    let known = match raw.kind {
        Kind::Absolute => ABSOLUTE,
        Kind::Pairwise => PAIRWISE,
    };
    let span = raw.placeholders.span();
    for name in raw.placeholders.as_ref() {
        if !known.contains(&name.as_str()) {
            let offset = text[span.clone()].find(name.as_str()).unwrap_or_default();
            return Err(JudgesError::Setting {
                at: Location::new(file, Some(line_of(text, span.start + offset))),
                key: "placeholders".into(),
                found: format!("\"{name}\""),
                expected: known.join(", "),
            });
        }
    }
    Ok(raw.placeholders.as_ref().clone())
}

fn sampling(raw: &SamplingFile, file: &str) -> Result<Sampling> {
    let setting = |key: &str, found: String, expected: &str| JudgesError::Setting {
        at: Location::new(file, None),
        key: key.into(),
        found,
        expected: expected.into(),
    };
    let default = Sampling::default();
    let sampling = Sampling {
        max_new_tokens: raw.max_new_tokens.unwrap_or(1024),
        temperature: raw.temperature.unwrap_or_default(),
        top_k: raw.top_k,
        top_p: raw.top_p,
        min_p: raw.min_p,
        repetition_penalty: raw.repetition_penalty.unwrap_or(default.repetition_penalty),
        ..default
    };
    if sampling.max_new_tokens == 0 {
        return Err(setting("sampling.max_new_tokens", "0".into(), "at least 1"));
    }
    if sampling.temperature < 0.0 || !sampling.temperature.is_finite() {
        return Err(setting("sampling.temperature", sampling.temperature.to_string(), "0 or more"));
    }
    if sampling.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return Err(setting("sampling.top_p", format!("{:?}", sampling.top_p), "above 0, at most 1"));
    }
    Ok(sampling)
}

fn template(raw: &TemplateFile, file: &str, text: &str, folder: &Path, declared: &[String]) -> Result<PromptTemplate> {
    let name = raw.name.as_ref().clone();
    let check = |spanned: &toml::Spanned<String>| {
        let template = Template::new(spanned.as_ref().as_str());
        for found in template.placeholders() {
            if !declared.iter().any(|known| known == found) {
                // Inside the raw text of the value, so that the line is that of the placeholder itself.
                let span = spanned.span();
                let offset = text[span.clone()].find(&format!("{{{found}}}")).unwrap_or_default();
                let line = Some(line_of(text, span.start + offset));
                let known: Vec<&str> = declared.iter().map(String::as_str).collect();
                return Err(unknown_placeholder(Location::new(file, line), &name, found, &known));
            }
        }
        Ok(template)
    };
    let mut template = PromptTemplate {
        name: name.clone(),
        turn: raw.turn,
        reference: raw.reference,
        system: raw.system.as_ref().map(check).transpose()?.unwrap_or_default(),
        user: raw.user.as_ref().map(check).transpose()?.unwrap_or_default(),
    };
    let line = Some(line_of(text, raw.name.span().start));
    match (&raw.user, &raw.prompt_file) {
        (Some(_), None) => {}
        (None, Some(path)) => {
            let path: PathBuf = folder.join(path);
            let known: Vec<&str> = declared.iter().map(String::as_str).collect();
            let prompts = prompt_file::read(&path)?;
            let named = prompts.iter().find(|prompt| prompt.name.as_ref().is_none_or(|n| n == &name));
            let prompt = named.ok_or_else(|| JudgesError::Syntax {
                at: Location::new(path.display().to_string(), None),
                message: format!("no prompt named `{name}`"),
            })?;
            replace(&mut template, prompt, &path, &known)?;
        }
        _ => {
            return Err(JudgesError::Setting {
                at: Location::new(file, line),
                key: format!("template `{name}`"),
                found: if raw.user.is_some() { "both `user` and `prompt_file`" } else { "neither" }.into(),
                expected: "either `user` (the prompt) or `prompt_file` (a file that holds it)".into(),
            });
        }
    }
    Ok(template)
}

/// Puts the text of a prompt file into a template.
pub(super) fn replace(template: &mut PromptTemplate, prompt: &PromptText, path: &Path, known: &[&str]) -> Result<()> {
    let user = Template::new(prompt.user.as_str());
    let system = prompt.system.as_deref().map(Template::new);
    for (text, line) in [(Some(&user), prompt.user_line), (system.as_ref(), prompt.system_line)] {
        let Some(text) = text else { continue };
        if let Some(found) = text.placeholders().find(|found| !known.contains(found)) {
            let above = text.source().find(&format!("{{{found}}}")).unwrap_or_default();
            // The lines of a JSON string are all on one line of the file.
            let below = if prompt.name.is_some() { 0 } else { text.source()[..above].matches('\n').count() };
            let at = Location::new(path.display().to_string(), Some(line + below));
            return Err(unknown_placeholder(at, &template.name, found, known));
        }
    }
    template.user = user;
    if let Some(system) = system {
        template.system = system;
    }
    Ok(())
}

fn unknown_placeholder(at: Location, template: &str, found: &str, known: &[&str]) -> JudgesError {
    JudgesError::UnknownPlaceholder {
        at: Box::new(at),
        template: template.into(),
        found: found.into(),
        expected: known.join(", "),
        nearest: nearest(found, known.iter().copied()),
    }
}
