//! From the responses of one document to its scores.

use harness_core::{MetricKey, Output, Request, Response, SampleScore};
use harness_metrics::{Answer as Scorable, ChoiceAnswers, Reads};
use serde_json::Value;

use crate::{
    Answer, AnswerOutcome, DeclarativeTask, DocumentRequests, Gold, OutputType, Scored, TaskError,
    config::ProcessResults,
    filter::Pipeline,
    generation,
    metric::MetricConfig,
    native::{Answers, NativeScores},
};
use harness_python::str as python_str;

impl DeclarativeTask {
    pub(crate) fn score_document(&self, item: &DocumentRequests, responses: &[Response]) -> Result<Scored, TaskError> {
        let wrong =
            |message: String| TaskError::Responses { task: self.config.id.clone(), index: item.doc.index, message };
        if responses.len() != item.requests.len() {
            return Err(wrong(format!("expected {} responses, found {}", item.requests.len(), responses.len())));
        }
        if let Some(results) = self.config.process_results {
            return self.score_natively(item, responses, results).map_err(wrong);
        }
        match self.config.output_type {
            OutputType::MultipleChoice => self.score_choices(item, responses).map_err(wrong),
            OutputType::LogLikelihood => {
                let Output::LogLikelihood { logprob, is_greedy, .. } = responses[0].output else {
                    return Err(wrong("the response must be a log-likelihood".to_owned()));
                };
                self.scored(item, &Scorable::Continuation { logprob, is_greedy }).map_err(wrong)
            }
            OutputType::LogLikelihoodRolling => {
                let Output::RollingLogLikelihood { logprob, .. } = responses[0].output else {
                    return Err(wrong("the response must be a rolling log-likelihood".to_owned()));
                };
                let counted =
                    self.config.dataset.count_column.as_ref().and_then(|column| item.doc.fields.get(column)?.as_str());
                self.scored(item, &Scorable::Rolling { logprob, text: counted.unwrap_or(&item.target) }).map_err(wrong)
            }
            OutputType::GenerateUntil => self.score_texts(item, responses).map_err(wrong),
        }
    }

    /// One score a metric and pipeline, in the order of the specifications.
    fn scored(&self, item: &DocumentRequests, answer: &Scorable<'_>) -> Result<Scored, String> {
        let mut scores = Vec::with_capacity(self.config.metrics.len());
        for pipeline in &self.config.pipelines {
            for metric in &self.config.metrics {
                let stats = metric.scorer.stats(answer).map_err(|e| e.to_string())?;
                let stats = stats.ok_or_else(|| self.scores_other_outputs(metric))?;
                let key = metric.key(&pipeline.name);
                scores.push(SampleScore { doc: item.doc.id, key, stats, parsed: true });
            }
        }
        Ok(Scored { scores, answers: Vec::new() })
    }

    fn scores_other_outputs(&self, metric: &MetricConfig) -> String {
        format!(
            "the metric {} does not score the responses to {} requests",
            metric.name,
            self.config.output_type.name()
        )
    }

    /// The scores that the task's own function computes.
    fn score_natively(
        &self,
        item: &DocumentRequests,
        responses: &[Response],
        results: ProcessResults,
    ) -> Result<Scored, String> {
        let mut scored = Scored { scores: Vec::new(), answers: Vec::new() };
        for pipeline in &self.config.pipelines {
            let (values, answer) = native_scores(item, responses, results, pipeline)?;
            for metric in &self.config.metrics {
                let stats = match values.iter().find(|score| score.metric == metric.name) {
                    Some(score) => score.stats.clone(),
                    None => vec![0.0; metric.scorer.statistic(self.classes).dim()],
                };
                let parsed = answer.as_ref().is_none_or(|answer| answer.outcome.is_read());
                scored.scores.push(SampleScore { doc: item.doc.id, key: metric.key(&pipeline.name), stats, parsed });
            }
            scored.answers.extend(answer);
        }
        Ok(scored)
    }

    /// What lm-eval logs of a score that the task's own function computes, where it is more than a number.
    pub(crate) fn native_log(&self, item: &DocumentRequests, responses: &[Response], key: &MetricKey) -> Option<Value> {
        let pipeline = self.config.pipelines.iter().find(|pipeline| pipeline.name == key.filter)?;
        let (values, _) = native_scores(item, responses, self.config.process_results?, pipeline).ok()?;
        values.into_iter().find(|score| score.metric == key.metric)?.logged
    }

    fn score_choices(&self, item: &DocumentRequests, responses: &[Response]) -> Result<Scored, String> {
        let wrong = || "the responses must be log-likelihoods, one per choice".to_owned();
        let mut logprobs = Vec::with_capacity(responses.len());
        let mut greedy = Vec::with_capacity(responses.len());
        for response in responses {
            let Output::LogLikelihood { logprob, is_greedy, .. } = response.output else { return Err(wrong()) };
            logprobs.push(logprob);
            greedy.push(is_greedy);
        }
        let choices = item.choices.len();
        let (conditional, unconditional) = logprobs.split_at_checked(choices).ok_or_else(wrong)?;
        let gold = item.gold.choice().ok_or("the target must be the number of a choice")?;
        let answers = ChoiceAnswers {
            choices: &item.choices,
            loglikelihoods: conditional,
            is_greedy: &greedy[..choices],
            unconditional: (unconditional.len() == choices).then_some(unconditional),
            gold: &gold,
            classes: self.classes,
        };
        self.scored(item, &Scorable::Choices(&answers))
    }

    fn score_texts(&self, item: &DocumentRequests, responses: &[Response]) -> Result<Scored, String> {
        let mut texts = Vec::new();
        let mut cut = true;
        let mut reference = None;
        for (request, response) in item.requests.iter().zip(responses) {
            if let Some((text, open)) = generation::answer(request, &response.output) {
                texts.push(text);
                cut &= open;
                continue;
            }
            match (request, &response.output) {
                (Request::LogLikelihood { .. }, Output::LogLikelihood { logprob, token_ids, .. }) => {
                    reference = Some((*logprob, token_ids.len().max(response.usage.completion_tokens)));
                }
                (request, _) => return Err(format!("the response is not an answer to a {} request", request.kind())),
            }
        }
        let references = match &item.gold {
            Gold::Text(text) => std::slice::from_ref(text),
            Gold::Texts(texts) => texts,
            Gold::Choice(_) | Gold::Choices(_) => &[],
        };
        let mut scored = Scored { scores: Vec::new(), answers: Vec::new() };
        for pipeline in &self.config.pipelines {
            let mut answer = pipeline.apply(&texts, &item.doc.fields);
            if cut {
                answer.outcome = AnswerOutcome::CutInThinking;
            }
            let mut gave_up = false;
            for metric in &self.config.metrics {
                let key = metric.key(&pipeline.name);
                let (stats, costly) = match metric.reads {
                    Some(Reads::Text) => text_stats(metric, &answer.value, references),
                    Some(Reads::Reference) => {
                        if scored.scores.iter().all(|score| score.key != key) {
                            let (logprob, tokens) = reference.unwrap_or((f64::NAN, 0));
                            let stats = metric.scorer.stats(&Scorable::Reference { logprob, tokens });
                            let stats = stats.ok().flatten().ok_or_else(|| self.scores_other_outputs(metric))?;
                            scored.scores.push(SampleScore { doc: item.doc.id, key, stats, parsed: true });
                        }
                        continue;
                    }
                    _ => return Err(self.scores_other_outputs(metric)),
                };
                let parsed = answer.outcome.is_read() && !costly;
                gave_up |= costly;
                scored.scores.push(SampleScore { doc: item.doc.id, key, stats, parsed });
            }
            if gave_up {
                answer.outcome = AnswerOutcome::PatternTooCostly;
            }
            scored.answers.push(answer);
        }
        Ok(scored)
    }
}

/// What a task's own function makes of the responses behind a pipeline, and the filtered answer of a generation.
fn native_scores(
    item: &DocumentRequests,
    responses: &[Response],
    results: ProcessResults,
    pipeline: &Pipeline,
) -> Result<(NativeScores, Option<Answer>), String> {
    let mut logprobs = Vec::new();
    let mut texts = Vec::new();
    let mut cut = true;
    for (request, response) in item.requests.iter().zip(responses) {
        match (&response.output, generation::answer(request, &response.output)) {
            (Output::LogLikelihood { logprob, is_greedy, .. }, _) => logprobs.push((*logprob, *is_greedy)),
            (Output::RollingLogLikelihood { logprob, .. }, _) => logprobs.push((*logprob, false)),
            (Output::Text { .. }, Some((text, open))) => {
                texts.push(text);
                cut &= open;
            }
            (Output::Text { .. }, None) => {
                return Err(format!("the response is not an answer to a {} request", request.kind()));
            }
        }
    }
    let answer = (!texts.is_empty()).then(|| {
        let answer = pipeline.apply(&texts, &item.doc.fields);
        Answer { outcome: if cut { AnswerOutcome::CutInThinking } else { answer.outcome }, ..answer }
    });
    let text = answer.as_ref().map(|answer| match &answer.value {
        Value::Array(items) => items.first().map(python_str).unwrap_or_default(),
        value => python_str(value),
    });
    let answers = text.as_deref().map_or(Answers::LogLikelihoods(&logprobs), Answers::Text);
    Ok((results(&item.doc.fields, &answers)?, answer))
}

/// Statistics of an answer; of a list of answers their mean. True where a pattern was too costly, which scores as an
/// empty answer that is not parsed.
fn text_stats(metric: &MetricConfig, answer: &Value, references: &[String]) -> (Vec<f64>, bool) {
    let stats = |text: &str, references: &[String]| metric.scorer.stats(&Scorable::Text { text, references });
    let one = |value: &Value| match stats(&python_str(value), references) {
        Ok(stats) => (stats.unwrap_or_default(), false),
        Err(_) => (stats("", &[]).ok().flatten().unwrap_or_default(), true),
    };
    match answer {
        Value::Array(items) if metric.averages() && items.len() > 1 => {
            let all: Vec<(Vec<f64>, bool)> = items.iter().map(one).collect();
            let mean = all.iter().map(|(stats, _)| stats[0]).sum::<f64>() / all.len() as f64;
            (vec![mean, 1.0], all.iter().any(|(_, costly)| *costly))
        }
        Value::Array(items) => one(items.first().unwrap_or(&Value::Null)),
        value => one(value),
    }
}
