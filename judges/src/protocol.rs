//! Judging protocols as data: what a judge is shown, how it is sampled, and how its verdict is read.

mod file;

use std::{collections::BTreeSet, path::Path};

use harness_core::{Digest, Sampling};
use serde::{Deserialize, Serialize};

use crate::{
    JudgesError, Kind, Location, Parser, Result, Template, built_in,
    placeholders::{ABSOLUTE, PAIRWISE, shown},
    prompt_file,
};

/// Share of the probability that labels need for a verdict unless a protocol says otherwise: most of it.
pub const LEAST_LABEL_SHARE: f64 = 0.5;

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
    /// Share of the probability of the first token that the labels need for a verdict. Left out of the digest where it is
    /// the usual one, so that questions keep the ids they had before there was a choice.
    #[serde(skip_serializing_if = "is_usual_share")]
    pub least_label_share: f64,
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
        built_in::load("protocol", &BUILT_IN, name, Self::parse)
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
                file::replace(template, &prompt, path, known)?;
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

    /// The protocol with the reference tool's own way of reading verdicts, where it differs from ours. alpaca_eval takes
    /// labels however improbable they are.
    pub fn compat(mut self) -> Self {
        self.parser = self.parser.compat();
        if self.labels.is_some() {
            self.least_label_share = 0.0;
        }
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

fn is_usual_share(share: &f64) -> bool {
    *share == LEAST_LABEL_SHARE
}
