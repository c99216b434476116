//! One run, or its plan.

use harness_evaluation::{
    EvaluationError,
    training::{
        TrainingPlan,
        folder::{self, DONE},
        recipe_of,
    },
};
use harness_training::{
    backend::CpuBackend,
    parallel::{Ranks, all_gather_f64},
};
use serde_json::json;

use super::{
    App, Failure, launch, outline,
    output::{Outcome, describe},
};
use crate::{cli::TrainArgs, options};

/// One run, or its plan; nothing to print where another process prints it.
///
/// # Errors
/// If the recipe is wrong or the training fails.
pub(super) fn run(app: &App, args: &TrainArgs) -> Result<Option<Outcome>, Failure> {
    let place = launch::place()?;
    match args.nproc {
        Some(0) => return Err(Failure::usage("--nproc 0: expected at least 1")),
        Some(n) if n > 1 && place.is_none() && !args.dry_run => {
            app.device.check_ranks(n)?;
            return launch::spawn(app, n).map(|()| None);
        }
        _ => {}
    }
    let resolved = recipe_of(app, args.name.as_deref().unwrap_or_default())?;
    let changes = options::changes_of(args)?;
    let world = place.as_ref().map_or(args.nproc.unwrap_or(1), |place| place.world);
    if args.dry_run {
        if let Some(shape) = outline::shape(app, &resolved, args.base.as_deref(), &changes)? {
            return if launch::follows() { Ok(None) } else { shape.describe(app, world).map(Some) };
        }
        if world > 1 && place.is_none() {
            app.device.check_ranks(world)?;
            return launch::spawn(app, world).map(|()| None);
        }
    }
    // Before a base is hashed or trained.
    match &place {
        Some(_) => app.device.check_ranks(1)?,
        None => app.device.check()?,
    }
    let plan = TrainingPlan::new(app, &resolved, args.base.as_deref(), args.out.as_deref(), &changes)?;
    if args.out.is_some() && !args.force && !args.dry_run {
        folder::check(&plan.folder, plan.digest(app)?)?;
    }
    let ranks = launch::connect(app, place.as_ref())?;
    let first = ranks.rank() == 0;
    if args.dry_run {
        return estimate(app, &plan, ranks);
    }
    // What rank 0 finds counts: the folder may be on its host alone.
    let mine = [f64::from(u8::from(plan.folder.join(DONE).is_file()))];
    let done = all_gather_f64(&*ranks.collective::<CpuBackend>(), &mine)?[0] == [1.0];
    if done && !args.force {
        if !first {
            return Ok(None);
        }
        app.note(format!("{} already exists; --force trains it again", plan.folder.display()));
        let object = json!({ "name": plan.name, "folder": plan.folder, "trained": false });
        return Ok(Some(Outcome { object, text: plan.folder.display().to_string() }));
    }
    let begun = harness_training::checkpoint::steps(&plan.folder);
    if args.resume && begun.is_empty() && first {
        return Err(Failure::usage(format!("--resume: {} contains no checkpoint", plan.folder.display())));
    }
    if args.force && first {
        folder::remove(&plan.folder)?;
    }
    let summary = match plan.run(app, !args.force, ranks) {
        // One rank tells it.
        Err(error @ EvaluationError::Interrupted(_)) if !first => return Err(Failure::from(error).silent()),
        result => result?,
    };
    let object = json!({ "name": plan.name, "folder": plan.folder, "trained": true, "summary": summary });
    Ok(first.then(|| Outcome { object, text: plan.folder.display().to_string() }))
}

/// What the run would take, measured over these ranks.
fn estimate(app: &App, plan: &TrainingPlan, ranks: Ranks) -> Result<Option<Outcome>, Failure> {
    let world = ranks.world();
    Ok(plan.estimate(app, ranks)?.map(|(estimate, manifest)| Outcome {
        object: json!({ "estimate": estimate, "run": manifest, "ranks": world }),
        text: describe(&plan.name, &estimate, world),
    }))
}
