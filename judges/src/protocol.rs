//! Judging protocols as data: what a judge is shown, how it is sampled, and how its verdict is read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Sampling};
use serde::{Deserialize, Serialize};

use crate::{
    JudgesError, Location, Parser, Result, Template,
    error::nearest,
    placeholders::{ABSOLUTE, PAIRWISE, shown},
    prompt_file::{self, PromptText},
};

/// What a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One output gets a score.
    Absolute,
    /// Of two outputs one is preferred.
    Pairwise,
}

/// How system text and user text become messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A system message, if there is system text, and a user message.
    #[default]
    SystemUser,
    /// One user message: the system text, a line feed, the user text (FastChat's `mistral` template does this).
    Joined,
}

/// What to do with a verdict that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often a question is asked in all, at least 1.
    pub attempts: u32,
    /// Temperature from the second time on where the protocol's own is 0 (a greedy judge would repeat itself).
    pub temperature: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, temperature: 0.7 }
    }
}

/// The prompt of one situation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTemplate {
    /// Its name, e.g. `single-math-v1`.
    pub name: String,
    /// The turn it is for, from 1; any turn where `None`.
    pub turn: Option<usize>,
    /// Whether it is for items with a reference; for both where `None`.
    pub reference: Option<bool>,
    /// System text; may be empty.
    pub system: Template,
    /// User text.
    pub user: Template,
}

/// A judging protocol. Its digest stands for everything a verdict depends on besides judge, rubric and outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Protocol {
    /// Name, e.g. `mt-bench`.
    pub name: String,
    /// Raised whenever verdicts may change.
    pub version: u32,
    /// What it is, in a sentence.
    pub description: String,
    /// What a verdict is about.
    pub kind: Kind,
    /// Turns that are judged, each by a question of its own.
    pub turns: usize,
    /// How texts become messages.
    pub layout: Layout,
    /// How the verdict is read.
    pub parser: Parser,
    /// Lowest and highest score of absolute verdicts.
    pub scale: Option<[f64; 2]>,
    /// Labels of the output shown first and second, where the verdict is the ratio of their probabilities.
    pub labels: Option<[String; 2]>,
    /// How many alternatives of the first token an endpoint is asked for, where there are labels.
    pub top_logprobs: usize,
    /// How the judge is sampled.
    pub sampling: Sampling,
    /// What to do with unreadable verdicts.
    pub retry: Retry,
    /// Regular expression of all legal outputs, matched against the whole text: for constrained decoding.
    pub constraint: Option<String>,
    /// Categories whose reference the judge sees; all where `None`.
    pub reference_categories: Option<Vec<String>>,
    /// Whether equal outputs are a tie without asking.
    pub equal_outputs_tie: bool,
    /// Its prompts; the first that fits is used.
    pub templates: Vec<PromptTemplate>,
}

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

/// The protocols that come with the program, by name.
const BUILT_IN: [(&str, &str); 5] = [
    ("absolute", include_str!("../prompts/absolute.toml")),
    ("pairwise", include_str!("../prompts/pairwise.toml")),
    ("alpaca-eval", include_str!("../prompts/alpaca-eval.toml")),
    ("mt-bench", include_str!("../prompts/mt-bench.toml")),
    ("mt-bench-pair", include_str!("../prompts/mt-bench-pair.toml")),
];

impl Protocol {
    /// Names of the protocols that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A protocol by name, or from a TOML file if the name is a path (ends in `.toml` or has a slash).
    ///
    /// # Errors
    /// If there is none of this name, or the file, or a prompt file it names, cannot be read or is wrong.
    pub fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(text, Path::new(&format!("protocol {name}")));
        }
        if name.ends_with(".toml") || name.contains('/') {
            let path = Path::new(name);
            let text = fs::read_to_string(path).map_err(|source| JudgesError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            return Self::parse(&text, path);
        }
        Err(JudgesError::Unknown {
            what: "protocol",
            found: name.to_owned(),
            expected: Self::names().collect::<Vec<_>>().join(", "),
            nearest: nearest(name, Self::names()),
        })
    }

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
        if let Some(pattern) = &raw.constraint
            && let Err(error) = regex::Regex::new(pattern.as_ref())
        {
            return Err(setting("constraint", line(pattern.span().start), error.to_string(), "a regular expression"));
        }
        let declared = declared(&raw, &name, text)?;
        let sampling = sampling(&raw.sampling, &setting)?;
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

    /// The protocol with prompts from a file of the user: FastChat's `judge_prompts.jsonl`, whose prompts replace those
    /// of the same name; or a text, which replaces the user text of every prompt (or system and user text, if it marks
    /// them as `<|im_start|>system … <|im_end|>`, as alpaca_eval's prompt files do).
    ///
    /// # Errors
    /// If the file cannot be read, has no prompt of these names, or uses a placeholder that nothing fills.
    pub fn with_prompt_file(mut self, path: &Path) -> Result<Self> {
        let known = match self.kind {
            Kind::Absolute => ABSOLUTE,
            Kind::Pairwise => PAIRWISE,
        };
        let mut replaced = 0;
        for prompt in prompt_file::read(path)? {
            for template in &mut self.templates {
                if prompt.name.as_ref().is_some_and(|name| name != &template.name) {
                    continue;
                }
                replaced += 1;
                replace(template, &prompt, path, known)?;
            }
        }
        if replaced == 0 {
            return Err(JudgesError::Syntax {
                at: Location::new(path.display().to_string(), None),
                message: format!(
                    "no prompt named {}; a prompt file replaces prompts of the same name",
                    self.templates.iter().map(|t| format!("`{}`", t.name)).collect::<Vec<_>>().join(" or ")
                ),
            });
        }
        let at = Location::new(path.display().to_string(), None);
        self.templates.iter().try_for_each(|template| self.sees_everything(template, &at))?;
        Ok(self)
    }

    /// The protocol with the reference tool's own way of reading verdicts, where it differs from ours.
    pub fn compat(mut self) -> Self {
        self.parser = self.parser.compat();
        self
    }

    /// Hash of the whole protocol.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// Whether questions of several turns are judged.
    pub fn is_multi_turn(&self) -> bool {
        self.turns > 1
    }

    /// Whether a judge sees the reference of items of this category.
    pub fn uses_reference(&self, category: Option<&str>) -> bool {
        match &self.reference_categories {
            None => true,
            Some(list) => category.is_some_and(|category| list.iter().any(|one| one == category)),
        }
    }

    /// Whether any prompt shows a rubric.
    pub fn uses_rubric(&self) -> bool {
        let rubric = |name: &str| name == "rubric" || name == "criterion";
        self.templates.iter().any(|t| t.system.placeholders().chain(t.user.placeholders()).any(rubric))
    }

    /// The first prompt for a turn (from 1), with or without a reference.
    pub fn template(&self, turn: usize, reference: bool) -> Option<&PromptTemplate> {
        self.templates
            .iter()
            .find(|t| t.turn.is_none_or(|n| n == turn) && t.reference.is_none_or(|wanted| wanted == reference))
    }

    /// Checks that a prompt shows the outputs that are judged, and the reference if it is for items that have one.
    fn sees_everything(&self, template: &PromptTemplate, at: &Location) -> Result<()> {
        let used: BTreeSet<&str> = template.system.placeholders().chain(template.user.placeholders()).collect();
        for (what, names) in shown(self.kind, template.reference == Some(true)) {
            if !names.iter().any(|name| used.contains(name)) {
                return Err(JudgesError::MissingPlaceholder {
                    at: at.clone(),
                    template: template.name.clone(),
                    missing: format!("{what} ({{{}}})", names.join("} or {")),
                });
            }
        }
        Ok(())
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

fn sampling(
    raw: &SamplingFile,
    setting: &dyn Fn(&str, Option<usize>, String, &str) -> JudgesError,
) -> Result<Sampling> {
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
        return Err(setting("sampling.max_new_tokens", None, "0".into(), "at least 1"));
    }
    if sampling.temperature < 0.0 || !sampling.temperature.is_finite() {
        return Err(setting("sampling.temperature", None, sampling.temperature.to_string(), "0 or more"));
    }
    if sampling.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return Err(setting("sampling.top_p", None, format!("{:?}", sampling.top_p), "above 0, at most 1"));
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
fn replace(template: &mut PromptTemplate, prompt: &PromptText, path: &Path, known: &[&str]) -> Result<()> {
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
        at,
        template: template.into(),
        found: found.into(),
        expected: known.join(", "),
        nearest: nearest(found, known.iter().copied()),
    }
}

/// The line, from 1, of a position in a text.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes()[..position.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// An error of the TOML reader, with its line.
pub(crate) fn toml_error(file: &str, text: &str, error: &toml::de::Error) -> JudgesError {
    let line = error.span().map(|span| line_of(text, span.start));
    JudgesError::Syntax { at: Location::new(file, line), message: error.message().to_owned() }
}
