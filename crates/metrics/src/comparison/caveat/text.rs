//! Caveats in sentences.

use std::fmt;

use super::{
    super::{Coverage, Scale, code_span::code},
    Caveat, IrregularShare, NamedDocuments, Share, ZeroFilter,
};

/// How many items of a list are spelled out.
const SHOWN: usize = 4;

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameModelTwice { models: [a, b] } => {
                write!(
                    f,
                    "{a} and {b} are the same model. What differs between the two is the noise floor.",
                    a = code(a),
                    b = code(b)
                )
            }
            Self::NoOpAdapter { model, base } => match base {
                Some(base) => write!(
                    f,
                    "The adapter of {model} changes nothing: it answers as {base} does.",
                    model = code(model),
                    base = code(base)
                ),
                None => write!(f, "The adapter of {model} changes nothing.", model = code(model)),
            },
            Self::IdenticalOutputs { models: [a, b], tasks, of } => {
                write!(
                    f,
                    "{a} and {b} gave identical outputs on {} of {}: ",
                    tasks.len(),
                    counted(*of, "task"),
                    a = code(a),
                    b = code(b)
                )?;
                list(f, tasks, |f, t| write!(f, "{} ({})", t.task, counted(t.requests, "request")))?;
                f.write_str(".")
            }
            Self::PartialOverlap { rows } => {
                f.write_str("Only shared documents are compared: ")?;
                list(f, rows, |f, row| {
                    write!(f, "{} {} uses {}", row.task, row.key, counted(row.used, "document"))?;
                    for (model, count) in &row.dropped {
                        write!(f, ", {count} of {model} left out", model = code(model))?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::NoDocuments { tasks } => {
                f.write_str("No documents: ")?;
                list(f, tasks, |f, task| f.write_str(task))?;
                f.write_str(".")
            }
            Self::TooFewDocuments { power, rows, of } => {
                write!(
                    f,
                    "Too few documents in {} of {} to show a difference as large as the margin with {:.0} % power: ",
                    rows.len(),
                    counted(*of, "row"),
                    power * 100.0
                )?;
                list(f, rows, |f, row| {
                    write!(f, "{} {} ({}) ", row.task, row.key, counted(row.n, "document"))?;
                    match row.detectable {
                        Some(detectable) => write!(f, "shows differences from {}", amount(detectable, row.scale))?,
                        None => f.write_str("could not have shown any difference")?,
                    }
                    if let Some(needed) = row.needed {
                        let margin = amount(row.margin, row.scale);
                        write!(f, " ({margin} would take about {})", counted(rounded(needed), "document"))?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::TooFewResamples { resamples, needed, families } => {
                write!(
                    f,
                    "With {} resamples a permutation test may be unable to decide after the correction; {} would be \
                     enough: ",
                    thousands(*resamples as u64),
                    thousands(*needed as u64)
                )?;
                list(f, families, |f, (name, tests)| write!(f, "{name} ({})", counted(*tests, "test")))?;
                f.write_str(".")
            }
            Self::UnparsedAnswers { shares } => shares_text(f, "No answer could be extracted", "answers", shares),
            Self::TruncatedContexts { shares } => {
                shares_text(f, "Contexts were cut to the model's length", "requests", shares)
            }
            Self::AnswersCutByLimit { shares } => {
                shares_text(f, "Answers were cut by the limit on tokens", "requests", shares)
            }
            Self::CutInThinking { shares } => {
                shares_text(f, "The thinking never ended, so there is no answer", "requests", shares)
            }
            Self::ThinkingScored { shares } => shares_text(
                f,
                "Answers contain <think> or </think> and no think_end_token is set: their thinking was scored, and \
                 stop strings may have ended them inside it",
                "requests",
                shares,
            ),
            Self::IrregularAnswers { shares } => {
                f.write_str("Some answers are not usable: ")?;
                list(f, shares, |f, IrregularShare { reason, share }| {
                    let Share { task, model, count, of, .. } = share;
                    write!(f, "{task} {model} {count} of {of} {}", reason.describe(), model = code(model))
                })?;
                f.write_str(".")
            }
            Self::BoundaryShifts { shares } => {
                shares_text(f, "The token boundary before the answer moved", "requests", shares)
            }
            Self::FirstTokensUnscored { shares } => {
                shares_text(f, "The server gave no log-probability for the first token", "texts", shares)
            }
            Self::ExamplesFromTest { tasks } => {
                f.write_str("Few-shot examples come from the evaluated split: ")?;
                list(f, tasks, |f, (task, documents)| write!(f, "{task} ({})", counted(*documents, "document")))?;
                f.write_str(".")
            }
            Self::SharedExamples { tasks } => documents_text(
                f,
                "Prompts show the evaluated document's own question and answer among the examples",
                tasks,
            ),
            Self::SystemLeftOut { shares } => {
                shares_text(f, "The chat template refuses a system message, which was left out", "requests", shares)
            }
            Self::SystemHidden { shares } => {
                shares_text(f, "The chat template does not show the system message", "requests", shares)
            }
            Self::StoppedInThinking { shares } => {
                shares_text(f, "A stop string ended the text inside its thinking", "requests", shares)
            }
            Self::NoRightChoice { tasks } => {
                documents_text(f, "The right answer is none of the choices, so every model scores 0", tasks)
            }
            Self::CostlyPatterns { tasks } => {
                documents_text(f, "A pattern was abandoned because it backtracked without end", tasks)
            }
            Self::SameFile { models: [a, b], files } if files.is_empty() => write!(
                f,
                "The results of {a} and {b} were imported from files with the same content: the same model twice. \
                 What differs between the two is the noise floor.",
                a = code(a),
                b = code(b)
            ),
            Self::SameFile { models: [a, b], files } => {
                write!(
                    f,
                    "Some results of {a} and {b} were imported from files with the same content: ",
                    a = code(a),
                    b = code(b)
                )?;
                list(f, files, |f, file| f.write_str(file))?;
                f.write_str(".")
            }
            Self::SameModelRuns { models: [a, b], told, largest } => {
                write!(
                    f,
                    "{a} and {b} are results of the same model, according to their files ({told}): what differs ",
                    a = code(a),
                    b = code(b),
                    told = code(told)
                )?;
                f.write_str("between the two is the noise floor")?;
                if !largest.is_empty() {
                    f.write_str(", up to ")?;
                    list(f, largest, |f, floor| {
                        write!(f, "{} ({} {})", amount(floor.difference, floor.scale), floor.task, floor.key)
                    })?;
                }
                f.write_str(".")
            }
            Self::SameMeans { models: [a, b], rows } => write!(
                f,
                "{a} and {b} have the same mean in every row ({}): probably the same model twice. What differs \
                 between the two is the noise floor.",
                counted(*rows, "row"),
                a = code(a),
                b = code(b)
            ),
            Self::SharedOutputs { models: [a, b], tasks } => {
                write!(f, "{a} and {b} gave outputs equal to the last bit: ", a = code(a), b = code(b))?;
                list(f, tasks, |f, t| write!(f, "{} on {} of {}", t.task, t.same, counted(t.of, "document")))?;
                f.write_str(".")
            }
            Self::SameScores { models: [a, b], rows } => {
                write!(
                    f,
                    "{a} and {b} have equal scores on more documents than chance allows: ",
                    a = code(a),
                    b = code(b)
                )?;
                list(f, rows, |f, r| write!(f, "{} {} on {} of {}", r.task, r.key, r.same, counted(r.of, "document")))?;
                f.write_str(". If this is the same model twice, what differs between the two is the noise floor.")
            }
            Self::DifferentConditions { conditions } => {
                f.write_str("The models were not run in the same way: ")?;
                list(f, conditions, |f, condition| {
                    f.write_str(&condition.what)?;
                    if let Some(task) = &condition.task {
                        write!(f, " of {task}")?;
                    }
                    for (i, (model, value)) in condition.values.iter().take(SHOWN).enumerate() {
                        write!(f, "{} {model} {value}", if i == 0 { ":" } else { "," }, model = code(model))?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::SampledOnce { shares } => {
                shares_text(f, "Answers were sampled at random, only once each", "requests", shares)
            }
            Self::NothingParsed { shares, zeros } => {
                if !shares.is_empty() {
                    shares_text(f, "The value is 0 because nothing was extracted", "answers not parsed", shares)?;
                }
                if !zeros.is_empty() {
                    let before = if shares.is_empty() { "" } else { " " };
                    write!(
                        f,
                        "{before}The value is exactly 0 after a filter, which happens when nothing is extracted: "
                    )?;
                    list(f, zeros, zero)?;
                    f.write_str(".")?;
                }
                Ok(())
            }
            Self::FilterConflicts { rows } => {
                f.write_str("The difference depends on the extraction filter: ")?;
                list(f, rows, |f, row| {
                    let [one, other] = row.differences.map(|difference| amount(difference, row.scale));
                    let ([key, with], [first, second]) = (&row.filters, row.verdicts);
                    write!(f, "{} {} {key} {one} ({first}), {with} {other} ({second})", row.task, code(&row.model))
                })?;
                f.write_str(".")
            }
            Self::ConfoundedCandidates { pairs } => {
                f.write_str("Candidates differ in more than one setting: ")?;
                list(f, pairs, |f, pair| {
                    let [a, b] = &pair.models;
                    let beyond = if pair.claimed { " beyond what their names say" } else { "" };
                    write!(f, "{a} and {b}{beyond} in ", a = code(a), b = code(b))?;
                    for (i, (name, one, other)) in pair.differences.iter().take(SHOWN).enumerate() {
                        write!(f, "{}{name} ({one}, {other})", if i == 0 { "" } else { ", " })?;
                    }
                    if pair.differences.len() > SHOWN {
                        write!(f, " and {} more", pair.differences.len() - SHOWN)?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::TrainedOnTest { rows } => {
                f.write_str("Test documents appear in the training data: ")?;
                list(f, rows, |f, row| {
                    let count = row.exact + row.ngram;
                    write!(
                        f,
                        "{} {} {} {count} of {} ({} whole",
                        row.task,
                        row.key,
                        code(&row.model),
                        row.of,
                        row.exact
                    )?;
                    write!(f, ", {} by 13 consecutive words)", row.ngram)?;
                    if let Some(difference) = row.difference {
                        write!(f, ", difference {}", amount(difference, row.scale))?;
                        match row.clean {
                            Some(clean) => write!(f, ", without them {}", amount(clean, row.scale))?,
                            None => f.write_str(", no documents left without them")?,
                        }
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::SplitLeak { validated, trained, rows, of } => write!(
                f,
                "{rows} of {} of {validated} {} of {trained}.",
                counted(*of, "validation row"),
                if *rows == 1 { "is a training row" } else { "are training rows" },
                validated = code(validated),
                trained = code(trained)
            ),
            Self::BelowNoise { rows } => {
                f.write_str("Differences below the numerical noise: ")?;
                list(f, rows, |f, row| {
                    let (difference, noise) = (amount(row.difference, row.scale), amount(row.noise, row.scale));
                    write!(f, "{} {} {} {difference}, noise {noise}", row.task, row.key, code(&row.model))
                })?;
                f.write_str(".")
            }
            Self::ManyLooks { earlier, with } => {
                write!(f, "This comparison was run {} before with other seeds: ", times(*earlier))?;
                list(f, with, |f, text| f.write_str(text))?;
                f.write_str(".")
            }
            Self::Judge { task, judge, finding } => write!(f, "{task}, judge {judge}: {finding}", judge = code(judge)),
            Self::TrainedOtherwise { model, how } => write!(f, "{model} {}.", how.join("; "), model = code(model)),
            Self::OwnTexts { model, what } => {
                write!(
                    f,
                    "{model} is prompted with its own {}, not its base's.",
                    what.join(" and "),
                    model = code(model)
                )
            }
            Self::Unpaired { models } => {
                f.write_str("Only means are known, so differences are not paired by document: ")?;
                list(f, models, |f, model| write!(f, "{}", code(model)))?;
                f.write_str(".")
            }
            Self::IncompleteBenchmark { parts } => {
                f.write_str("Results cover only part of the benchmark: ")?;
                list(f, parts, |f, part| {
                    let Coverage { found, of, unit, missing } = &part.coverage;
                    write!(
                        f,
                        "{} {} has {} of {}",
                        part.task,
                        code(&part.model),
                        thousands(*found as u64),
                        counted(*of, unit)
                    )?;
                    if !missing.is_empty() && missing.len() <= SHOWN {
                        write!(f, " ({} missing)", missing.join(", "))?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::NotCompared { rows } => {
                f.write_str("Not compared, because some models have no results for it: ")?;
                list(f, rows, |f, row| {
                    f.write_str(&row.task)?;
                    if let Some(key) = &row.key {
                        write!(f, " {key}")?;
                    }
                    let models: Vec<String> = row.models.iter().map(|model| code(model).to_string()).collect();
                    write!(f, " (only {})", models.join(", "))
                })?;
                f.write_str(".")
            }
        }
    }
}

fn zero(f: &mut fmt::Formatter<'_>, zero: &ZeroFilter) -> fmt::Result {
    write!(f, "{} {} ", zero.task, zero.key)?;
    if zero.all {
        f.write_str(if zero.models.len() == 1 { "for " } else { "for all models, " })?;
    }
    list(f, &zero.models, |f, model| write!(f, "{}", code(model)))?;
    if let Some((key, value)) = &zero.beside {
        write!(f, ", but up to {:.1} % after {}", 100.0 * value, key.filter)?;
    }
    Ok(())
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut one: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().take(SHOWN).enumerate() {
        if i > 0 {
            f.write_str("; ")?;
        }
        one(f, item)?;
    }
    if items.len() > SHOWN {
        write!(f, "; and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}

fn shares_text(f: &mut fmt::Formatter<'_>, what: &str, unit: &str, shares: &[Share]) -> fmt::Result {
    write!(f, "{what}: ")?;
    list(f, shares, |f, share| {
        write!(f, "{}", share.task)?;
        if let Some(key) = &share.key {
            write!(f, " {key}")?;
        }
        let percent = 100.0 * share.count as f64 / share.of.max(1) as f64;
        write!(f, " {} {} of {} {unit} ({percent:.1} %)", code(&share.model), share.count, share.of)
    })?;
    f.write_str(".")
}

/// How many documents are named one by one.
const NAMED: usize = 20;

fn documents_text(f: &mut fmt::Formatter<'_>, what: &str, tasks: &[NamedDocuments]) -> fmt::Result {
    write!(f, "{what}: ")?;
    list(f, tasks, |f, of| {
        write!(f, "{}", of.task)?;
        if let Some(model) = &of.model {
            write!(f, " {}", code(model))?;
        }
        write!(f, " document{} ", if of.documents.len() == 1 { "" } else { "s" })?;
        let named: Vec<String> = of.documents.iter().take(NAMED).map(usize::to_string).collect();
        f.write_str(&named.join(", "))?;
        match of.documents.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {} more", thousands(more as u64)),
        }
    })?;
    f.write_str(".")
}

fn times(n: usize) -> String {
    if n == 1 { "once".to_owned() } else { format!("{} times", thousands(n as u64)) }
}

/// A count with its noun, which gets an `s` unless it is one.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n as u64), if n == 1 { "" } else { "s" })
}

/// Two significant digits: a projection is no more precise than that.
fn rounded(n: u64) -> usize {
    let unit = 10u64.saturating_pow(n.max(1).ilog10().saturating_sub(1));
    usize::try_from(n.div_ceil(unit).saturating_mul(unit)).unwrap_or(usize::MAX)
}

/// A count with a comma between groups of three digits.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn amount(value: f64, scale: Scale) -> String {
    match scale {
        Scale::Fraction => format!("{:.1} percentage points", value * 100.0),
        Scale::Points => format!("{value:.1} points"),
        Scale::Raw => format!("{value:.3}"),
    }
}
