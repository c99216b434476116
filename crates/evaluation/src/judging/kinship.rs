//! Judges that share a base with a model they judge.

use harness_judges::{
    Judgment, Subject,
    results::{Rated, rated, shared_base},
};
use harness_metrics::comparison::Caveat;

use super::{ask::Asked, backend::Judge, case::Setting, jury};

/// A finding for every judge, or member of a jury, and every model that share a base, with what gold labels, or else the
/// other members of the jury, say of the judge's preference for it.
pub(super) fn caveats(setting: &Setting<'_>, asked: &Asked) -> Vec<Caveat> {
    let members = setting.judge.members();
    if members.is_empty() {
        return of_judge(setting, setting.judge, &asked.judgments, None);
    }
    let mut caveats = vec![];
    for (at, member) in members.iter().enumerate() {
        let others: Vec<usize> =
            (0..members.len()).filter(|&other| other != at && is_stranger(setting, &members[other])).collect();
        let names: Vec<&str> = others.iter().map(|&other| asked.members[other].0.as_str()).collect();
        let votes: Vec<Vec<Judgment>> = others.iter().map(|&other| asked.members[other].1.judgments.clone()).collect();
        let mean = (jury::mean(&votes), names.join(", "));
        let others = (!votes.is_empty()).then_some(&mean);
        caveats.extend(of_judge(setting, member, &asked.members[at].1.judgments, others));
    }
    caveats
}

/// Whether a judge shares its base with none of the models.
fn is_stranger(setting: &Setting<'_>, judge: &Judge) -> bool {
    let origin = judge.origin();
    origin.is_none_or(|origin| setting.origins.iter().all(|model| origin.shared(model).is_none()))
}

fn of_judge(
    setting: &Setting<'_>,
    judge: &Judge,
    judgments: &[Judgment],
    others: Option<&(Vec<Judgment>, String)>,
) -> Vec<Caveat> {
    let Some(origin) = judge.origin() else { return vec![] };
    let (known, against): (Vec<(Subject, Rated)>, &str) = match (setting.gold, others) {
        (Some(gold), _) => (rated(judgments, &gold.judgments), &gold.name),
        (None, Some((others, names))) => (rated(judgments, others), names),
        (None, None) => (vec![], ""),
    };
    let models = setting.sets.iter().zip(setting.origins);
    models
        .filter_map(|(set, model)| {
            let base = origin.shared(model)?;
            let with = (against, setting.settings.confidence);
            let finding = shared_base(&set.model, base, &known, setting.range(), with);
            Some(Caveat::Judge { task: setting.set.to_owned(), judge: judge.name(), finding })
        })
        .collect()
}
