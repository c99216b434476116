//! Low-rank adapters (Hu et al. 2021): which projections, how they begin, and what is written.

use std::collections::BTreeMap;

use harness_core::Seed;
use harness_engine::{Adapter, AdapterConfig, LoraPair, Projection, TargetModules};

use crate::{
    TrainingError,
    backend::Backend,
    params::{Param, ParamStore},
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

    /// The trained matrices as the engine's adapter, which knows PEFT's layout.
    pub fn adapter<B: Backend>(&self, backend: &B, store: &ParamStore<B>, base: &str) -> Adapter {
        let short = |p: &Projection| p.module().rsplit('.').next().unwrap_or_default().to_owned();
        let config = AdapterConfig {
            base_model_name_or_path: Some(base.to_owned()),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: (f64::from(self.dropout) * 1e6).round() / 1e6,
            use_rslora: self.rslora,
            target_modules: Some(TargetModules::Names(self.targets.iter().map(short).collect())),
            ..AdapterConfig::default()
        };
        let params: BTreeMap<&str, &Param> = store.layout().params().iter().map(|p| (p.name.as_str(), p)).collect();
        let value = |layer, projection, matrix: &str| -> Option<Vec<f32>> {
            params.get(tensor_name(layer, projection, matrix).as_str()).map(|param| store.value(backend, param))
        };
        let pair = |layer, projection| -> Option<LoraPair> {
            let (a, b) = (value(layer, projection, "A")?, value(layer, projection, "B")?);
            Some(LoraPair { a, b, rank: self.rank, scale: self.scale() as f32 })
        };
        let per_layer = (2 * self.targets.len()).max(1);
        let layers = (0..params.len() / per_layer)
            .map(|layer| self.targets.iter().filter_map(|&p| Some((p, pair(layer, p)?))).collect())
            .collect();
        Adapter::new(config, layers, BTreeMap::new())
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

/// Name of a matrix (`A` or `B`) in the adapter's file.
pub(crate) fn tensor_name(layer: usize, projection: Projection, matrix: &str) -> String {
    format!("base_model.model.{}.lora_{matrix}.weight", projection.path(layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(targets: Targets) -> Result<LoraSpec, TrainingError> {
        let (rank, alpha, dropout, init) = (4, 8.0, 0.0, LoraInit::Kaiming);
        LoraSpec::from_options(&LoraOptions { rank, alpha, dropout, targets, init })
    }

    #[test]
    fn targets_by_name() {
        let names = |names: &[&str]| Targets::Modules(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(spec(Targets::AllLinear).unwrap().targets, Projection::ALL);
        let some = spec(names(&["v_proj", "mlp.down_proj", "q_proj", "v_proj"])).unwrap();
        assert_eq!(some.targets, [Projection::Q, Projection::V, Projection::Down]);
        assert_eq!(some.scale(), 2.0);
        let error = spec(names(&["q_porj"])).unwrap_err().to_string();
        assert!(error.contains("q_porj") && error.contains("q_proj"), "{error}");
    }

    #[test]
    fn rank_stabilised_scale() {
        let spec = LoraSpec { rslora: true, ..spec(Targets::AllLinear).unwrap() };
        assert_eq!(spec.scale(), 4.0);
    }
}
