//! Who judges: a model, a jury, overlap with references, or people.

use std::{collections::BTreeMap, path::Path};

use harness_core::Digest;
use harness_http::EndpointSpec;
use harness_judges::{Item, Judgment, OutputSet, Plan};
use harness_metrics::comparison::code;

use super::{
    ask::{AskOptions, Asked},
    human::HumanVerdicts,
    origin::Origin,
    overlap,
};
use crate::{
    EvaluationError, Session,
    experiment::{Candidate, JudgeSection, ResolvedModel},
    models::{Loader, Missing, Ready},
};

/// A judge that is ready.
pub enum Judge {
    /// A language model.
    Model {
        /// The model.
        ready: Box<Ready>,
        /// Most tokens of a verdict.
        max_new_tokens: Option<usize>,
        /// Whether it is kept within the protocol's form, where it can be.
        constrained: bool,
        /// Whether it is not asked, and only what is stored counts.
        from_store: bool,
    },
    /// Several that vote.
    Jury {
        /// Its name.
        name: String,
        /// The members.
        members: Vec<Judge>,
    },
    /// ROUGE-L and chrF against a reference; no language model.
    Overlap,
    /// People.
    Human(HumanVerdicts),
}

/// How a command wants its judges.
#[derive(Clone, Copy, Debug, Default)]
pub struct JudgeOptions {
    /// Most tokens of a verdict, instead of what experiment or protocol say.
    pub max_new_tokens: Option<usize>,
    /// Whether verdicts are written freely.
    pub unconstrained: bool,
    /// Whether only stored verdicts count.
    pub from_store: bool,
}

impl Judge {
    /// The judge of these names; several are a jury.
    ///
    /// # Errors
    /// If one cannot be loaded.
    pub fn load(
        session: &Session,
        loader: &mut Loader<'_>,
        names: &[String],
        options: JudgeOptions,
    ) -> Result<Self, EvaluationError> {
        let mut members =
            names.iter().map(|name| Self::one(session, loader, name, options, 0)).collect::<Result<Vec<_>, _>>()?;
        if members.len() == 1
            && let Some(judge) = members.pop()
        {
            return Ok(judge);
        }
        Self::jury(format!("jury of {}", members.len()), members)
    }

    fn jury(name: String, members: Vec<Self>) -> Result<Self, EvaluationError> {
        let mut names: Vec<String> = members.iter().map(Self::name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EvaluationError::usage(format!("{name}: the judge {} is listed twice", twice[0])));
        }
        Ok(Self::Jury { name, members })
    }

    fn one(
        session: &Session,
        loader: &mut Loader<'_>,
        name: &str,
        options: JudgeOptions,
        depth: usize,
    ) -> Result<Self, EvaluationError> {
        if name == "overlap" {
            return Ok(Self::Overlap);
        }
        if let Some(file) = name.strip_prefix("human:") {
            return Ok(Self::Human(HumanVerdicts::read(Path::new(file))?));
        }
        let section = session.experiment.judges.get(name);
        let own = section.cloned().unwrap_or_default();
        let JudgeSection { model, jury, verdicts, max_new_tokens, constrained, .. } = &own;
        if let Some(file) = verdicts {
            return Ok(Self::Human(HumanVerdicts::read(&session.experiment.folder.join(file))?));
        }
        if !jury.is_empty() {
            if depth > 4 {
                return Err(EvaluationError::usage(format!("[judges.{name}]: juries contain each other")));
            }
            let members = jury.iter().map(|member| Self::one(session, loader, member, options, depth + 1));
            return Self::jury(name.to_owned(), members.collect::<Result<_, _>>()?);
        }
        let mut resolved = session.experiment.model(model.as_deref().unwrap_or(name)).map_err(|failure| {
            if EndpointSpec::is_spec(name) {
                // What was written there may hold a secret.
                return failure;
            }
            let known: Vec<&str> = session.experiment.judges.keys().map(String::as_str).chain(["overlap"]).collect();
            let near = harness_store::nearest(name, known.iter().copied()).filter(|_| model.is_none());
            let hint = near.map_or(String::new(), |near| format!("\nthere is a judge named {near:?}"));
            EvaluationError::In { place: format!("--judge {name}"), source: Box::new(failure), hint }
        })?;
        limit_requests(name, &own, &mut resolved)?;
        let mut ready = loader.load(&resolved, Missing::Refuse)?;
        if section.is_some() {
            name.clone_into(&mut ready.name);
        }
        Ok(Self::Model {
            ready: Box::new(ready),
            max_new_tokens: options.max_new_tokens.or(*max_new_tokens),
            constrained: !options.unconstrained && constrained.unwrap_or(true),
            from_store: options.from_store,
        })
    }

    /// Where the judge is from, if it is a language model.
    pub fn origin(&self) -> Option<Origin> {
        match self {
            Self::Model { ready, .. } => Some(Origin::of_entry(&ready.entry, ready.base.as_deref())),
            _ => None,
        }
    }

    /// What its verdicts depend on, by name: the digest of a model's identity, or of people's verdicts.
    pub fn identities(&self) -> BTreeMap<String, Digest> {
        match self {
            Self::Model { ready, .. } => BTreeMap::from([(ready.name.clone(), ready.entry.identity.digest())]),
            Self::Human(verdicts) => BTreeMap::from([(verdicts.name().to_owned(), verdicts.digest())]),
            Self::Overlap => BTreeMap::new(),
            Self::Jury { members, .. } => members.iter().flat_map(Self::identities).collect(),
        }
    }

    /// The members of a jury.
    pub fn members(&self) -> &[Self] {
        match self {
            Self::Jury { members, .. } => members,
            _ => &[],
        }
    }

    /// Its name in results.
    pub fn name(&self) -> String {
        match self {
            Self::Model { ready, .. } => ready.name.clone(),
            Self::Jury { name, .. } => name.clone(),
            Self::Overlap => "overlap".to_owned(),
            Self::Human(verdicts) => verdicts.name().to_owned(),
        }
    }

    /// What a reader must know of it.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Overlap => Some(
                "The judge `overlap` is no language model: it prefers the output that shares more words and letters with \
                 the reference (mean of ROUGE-L and chrF), whatever either says."
                    .to_owned(),
            ),
            Self::Human(verdicts) => Some(format!("The verdicts are people's, from {}.", verdicts.path().display())),
            Self::Jury { name, members } => {
                let names: Vec<String> = members.iter().map(Self::name).collect();
                Some(format!("The judge {} is the mean of {}.", code(name), names.join(", ")))
            }
            Self::Model { .. } => None,
        }
    }

    /// The judgments of a plan, and what asking took; of a jury also those of its members.
    ///
    /// # Errors
    /// If a judge fails, or the user interrupts.
    pub fn judge(
        &self,
        session: &Session,
        plan: &Plan,
        items: &[Item],
        outputs: &[OutputSet],
    ) -> Result<Asked, EvaluationError> {
        match self {
            Self::Model { ready, max_new_tokens, constrained, from_store } => {
                let options =
                    AskOptions { max_new_tokens: *max_new_tokens, constrained: *constrained, from_store: *from_store };
                super::ask::ask(session, ready, plan, options)
            }
            Self::Overlap => Ok(Asked::free(overlap::judge(plan, items, outputs)?)),
            Self::Human(verdicts) => Ok(Asked::free(verdicts.judge(plan)?)),
            Self::Jury { members, .. } => {
                let mut asked = Asked::default();
                let mut votes: Vec<Vec<Judgment>> = vec![];
                for member in members {
                    let one = member.judge(session, plan, items, outputs)?;
                    asked.add(&one);
                    votes.push(one.judgments.clone());
                    asked.members.push((member.name(), one));
                }
                asked.judgments = super::jury::mean(&votes);
                Ok(asked)
            }
        }
    }
}

/// Puts what a judge's section says about requests into the endpoint it asks.
fn limit_requests(name: &str, section: &JudgeSection, resolved: &mut ResolvedModel) -> Result<(), EvaluationError> {
    let keys = [
        ("concurrency", section.concurrency.is_some()),
        ("requests_per_minute", section.requests_per_minute.is_some()),
    ];
    match (&mut resolved.candidate, keys.iter().find(|(_, set)| *set)) {
        (_, None) => Ok(()),
        (Candidate::Endpoint { options }, Some(_)) => {
            options.concurrency = section.concurrency.unwrap_or(options.concurrency);
            options.requests_per_minute = section.requests_per_minute.or(options.requests_per_minute);
            Ok(())
        }
        (_, Some((key, _))) => Err(EvaluationError::usage(format!(
            "[judges.{name}]: `{key}` belongs to an endpoint, and this judge is a model on this machine"
        ))),
    }
}
