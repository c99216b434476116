//! Low-rank adapters (Hu et al. 2021): which projections, how they begin, and what is written.

use harness_core::Seed;
use harness_engine::Projection;

use crate::{
    TrainingError,
    backend::Backend,
    params::ParamStore,
    recipe::{LoraInit, LoraOptions, Targets},
};

/// An adapter to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// Inner dimension.
    pub rank: usize,
    /// The addition is scaled by `alpha / rank`, or `alpha / sqrt(rank)` with `rslora`.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)` (Kalajdzievski 2023).
    pub rslora: bool,
    /// Probability with which inputs of the additions are dropped in training.
    pub dropout: f32,
    /// The projections that get an addition, in the order of the block.
    pub targets: Vec<Projection>,
    /// How `A` begins; `B` begins at 0.
    pub init: LoraInit,
}

impl LoraSpec {
    /// The spec of a recipe's options.
    ///
    /// # Errors
    /// [`TrainingError::Setting`] for a module name that no projection has.
    pub fn from_options(options: &LoraOptions) -> Result<Self, TrainingError> {
        let targets = match &options.targets {
            Targets::AllLinear => Projection::ALL.to_vec(),
            Targets::Modules(names) => {
                let mut targets = names.iter().map(|name| projection(name)).collect::<Result<Vec<_>, _>>()?;
                targets.sort();
                targets.dedup();
                targets
            }
        };
        Ok(Self {
            rank: options.rank,
            alpha: options.alpha,
            rslora: false,
            dropout: options.dropout as f32,
            targets,
            init: options.init,
        })
    }

    /// The factor on the addition.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Draws every `A` from its own random stream; `B` is 0.
    pub(crate) fn initialise<B: Backend>(&self, backend: &B, store: &mut ParamStore<B>, seed: Seed) {
        for (index, param) in store.layout().params().to_vec().iter().enumerate() {
            if !param.name.ends_with("lora_A.weight") {
                continue;
            }
            let mut rng = seed.stream("lora A", index as u64);
            let bound = 1.0 / (param.shape[1] as f64).sqrt();
            let mut draw = || match self.init {
                LoraInit::Kaiming => (2.0 * rng.uniform() - 1.0) * bound,
                LoraInit::Gaussian => rng.normal() / self.rank as f64,
            };
            let data: Vec<f32> = (0..param.len()).map(|_| draw() as f32).collect();
            store.set_value(backend, index, &data);
        }
    }
}

/// The projection of a module name: `q_proj`, or with its parent, `self_attn.q_proj`.
fn projection(name: &str) -> Result<Projection, TrainingError> {
    let short = |projection: Projection| projection.module().rsplit('.').next().unwrap_or_default();
    Projection::ALL.into_iter().find(|&p| name == short(p) || name == p.module()).ok_or_else(|| {
        let all = Projection::ALL.map(short).join(", ");
        TrainingError::setting("lora.targets", format!("{name:?}"), format!("\"all-linear\" or modules among {all}"))
    })
}
