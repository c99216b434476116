//! Low-rank adapters (Hu et al. 2021): which projections, how they begin, and what is written.

mod options;

use std::collections::BTreeMap;

use harness_core::{Seed, nearest};
use harness_decoder::{Adapter, AdapterConfig, DecoderConfig, LoraPair, Projection, TargetModules};
pub use options::{LoraInit, LoraOptions, Targets};

use crate::{
    TrainingError,
    backend::{self, Backend},
    params::{Param, ParamStore},
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
    /// Where blocks differ: the pattern that says so, and the projections of every block.
    pub pattern: Option<(String, Vec<Vec<Projection>>)>,
    /// How `A` begins; `B` begins at 0.
    pub init: LoraInit,
}

impl LoraSpec {
    /// The spec of a recipe's options for a decoder.
    ///
    /// # Errors
    /// [`TrainingError::Setting`] for a module that the decoder does not have, or a rank larger than a targeted matrix.
    pub fn from_options(options: &LoraOptions, config: &DecoderConfig) -> Result<Self, TrainingError> {
        let setting = |found: &str, message: String| {
            let expected = format!("\"all-linear\", names, or a pattern over whole paths: {message}");
            TrainingError::setting("lora.targets", format!("{found:?}"), expected)
        };
        let no_module = |found: &str| {
            let layers = format!("model.layers.0 to {}", config.num_layers.saturating_sub(1));
            format!("this matches no module; {}", modules(found, &layers))
        };
        let mut layers = None;
        let mut targets = match &options.targets {
            Targets::AllLinear => Projection::ALL.to_vec(),
            Targets::Modules(names) => names
                .iter()
                .map(|name| projection(name).ok_or_else(|| setting(name, no_module(name))))
                .collect::<Result<Vec<_>, _>>()?,
            Targets::Pattern(text) => {
                let all = pattern(text, config.num_layers).map_err(|message| setting(text, message))?;
                if all.iter().all(Vec::is_empty) {
                    return Err(setting(text, no_module(text)));
                }
                let targets = all.concat();
                layers = Some((text.clone(), all));
                targets
            }
        };
        targets.sort();
        targets.dedup();
        for projection in &targets {
            let (out, inp) = projection.dims(config);
            if options.rank > out.min(inp) {
                let expected = format!(
                    "at most {}: {projection} is a matrix of {out} x {inp}, and a larger rank adds nothing",
                    out.min(inp)
                );
                return Err(TrainingError::setting("lora.rank", options.rank, expected));
            }
        }
        Ok(Self {
            pattern: layers,
            rank: options.rank,
            alpha: options.alpha,
            rslora: options.rslora,
            dropout: options.dropout as f32,
            targets,
            init: options.init,
        })
    }

    /// The projections of one block that get an addition.
    pub fn at(&self, layer: usize) -> &[Projection] {
        match &self.pattern {
            Some((_, layers)) => layers.get(layer).map_or(&[], Vec::as_slice),
            None => &self.targets,
        }
    }

    /// The factor on the addition.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// The trained matrices as the engine's adapter, which knows PEFT's layout.
    ///
    /// # Errors
    /// If the device fails.
    pub fn adapter<B: Backend>(&self, backend: &B, store: &ParamStore<B>, base: &str) -> backend::Result<Adapter> {
        let short = |p: &Projection| p.module().rsplit('.').next().unwrap_or_default().to_owned();
        let config = AdapterConfig {
            base_model_name_or_path: Some(base.to_owned()),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: (f64::from(self.dropout) * 1e6).round() / 1e6,
            use_rslora: self.rslora,
            target_modules: Some(match &self.pattern {
                Some((pattern, _)) => TargetModules::Pattern(pattern.clone()),
                None => TargetModules::Names(self.targets.iter().map(short).collect()),
            }),
            ..AdapterConfig::default()
        };
        let params: BTreeMap<&str, &Param> = store.layout().params().iter().map(|p| (p.name.as_str(), p)).collect();
        let param = |layer, projection, matrix| params.get(tensor_name(layer, projection, matrix).as_str());
        let pair = |layer, projection| -> backend::Result<Option<(Projection, LoraPair)>> {
            let (Some(a), Some(b)) = (param(layer, projection, "A"), param(layer, projection, "B")) else {
                return Ok(None);
            };
            let (a, b) = (store.value(backend, a)?, store.value(backend, b)?);
            Ok(Some((projection, LoraPair::new(a, b, self.rank, self.scale() as f32))))
        };
        let per_layer = (2 * self.targets.len()).max(1);
        let count = self.pattern.as_ref().map_or(params.len() / per_layer, |(_, layers)| layers.len());
        let layers = (0..count)
            .map(|layer| self.at(layer).iter().filter_map(|&p| pair(layer, p).transpose()).collect())
            .collect::<backend::Result<_>>()?;
        Ok(Adapter::new(config, layers, BTreeMap::new()))
    }

    /// Draws every `A` from its own random stream; `B` is 0.
    pub(crate) fn initialise<B: Backend>(
        &self,
        backend: &B,
        store: &mut ParamStore<B>,
        seed: Seed,
    ) -> backend::Result<()> {
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
            store.set_value(backend, index, &data)?;
        }
        Ok(())
    }
}

/// The last part of a projection's module path: `q_proj`.
fn short(projection: Projection) -> &'static str {
    projection.module().rsplit('.').next().unwrap_or_default()
}

/// The projection of a module name: `q_proj`, or with its parent, `self_attn.q_proj`.
pub(crate) fn projection(name: &str) -> Option<Projection> {
    Projection::ALL.into_iter().find(|&p| name == short(p) || name == p.module())
}

/// The projections of every block whose whole module path a regular expression matches.
///
/// # Errors
/// What is wrong with the expression.
pub(crate) fn pattern(text: &str, layers: usize) -> Result<Vec<Vec<Projection>>, String> {
    let regex = regex::Regex::new(&format!(r"\A(?:{text})\z"))
        .map_err(|error| format!("{text:?} is not a regular expression: {error}"))?;
    let matches = |layer| Projection::ALL.into_iter().filter(|p| regex.is_match(&p.path(layer))).collect();
    Ok((0..layers).map(matches).collect())
}

/// What to say of a name or pattern that no module has, with the names there are and the nearest one.
pub(crate) fn unknown_target(found: &str) -> String {
    format!("{found:?} matches no module; {}", modules(found, "model.layers.N"))
}

/// The names of modules in these layers, with the one that is nearest to what was asked for.
fn modules(found: &str, layers: &str) -> String {
    let names = Projection::ALL.map(short);
    let known: Vec<&str> = names.into_iter().chain(["all-linear"]).collect();
    let near = nearest(found, known.iter().copied()).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
    format!("modules are {} (in {layers}){near}", names.join(", "))
}

/// Name of a matrix (`A` or `B`) in the adapter's file.
pub(crate) fn tensor_name(layer: usize, projection: Projection, matrix: &str) -> String {
    format!("base_model.model.{}.lora_{matrix}.weight", projection.path(layer))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn spec(targets: Targets) -> Result<LoraSpec, TrainingError> {
        let (rank, alpha, dropout, init) = (4, 8.0, 0.0, LoraInit::Kaiming);
        let options = LoraOptions { rank, alpha, dropout, targets, init, rslora: false };
        LoraSpec::from_options(&options, &config())
    }

    /// A decoder of three blocks.
    pub(crate) fn config() -> DecoderConfig {
        let text = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
            "num_attention_heads": 2, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}"#;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        DecoderConfig::load(folder.path()).unwrap()
    }

    #[test]
    fn targets_by_name() {
        let names = |names: &[&str]| Targets::Modules(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(spec(Targets::AllLinear).unwrap().targets, Projection::ALL);
        let some = spec(names(&["v_proj", "mlp.down_proj", "q_proj", "v_proj"])).unwrap();
        assert_eq!(some.targets, [Projection::Q, Projection::V, Projection::Down]);
        assert_eq!(some.scale(), 2.0);
        let error = spec(names(&["q_porj"])).unwrap_err().to_string();
        assert!(error.contains("q_porj") && error.contains("did you mean \"q_proj\"?"), "{error}");
    }

    #[test]
    fn targets_by_pattern() {
        let some = spec(Targets::Pattern(r"model\.layers\.[02]\..*\.(q|v)_proj".into())).unwrap();
        assert_eq!((some.at(0), some.at(1)), (&[Projection::Q, Projection::V][..], &[][..]));
        assert_eq!(some.at(2), some.at(0));
        let refused = |text: &str| spec(Targets::Pattern(text.into())).unwrap_err().to_string();
        assert!(refused("all-liner").contains("did you mean \"all-linear\"?"));
        assert!(refused("q_proj").contains("matches no module"));
        assert!(refused("(").contains("not a regular expression"));
    }

    #[test]
    fn a_rank_larger_than_a_matrix_is_refused() {
        let (alpha, dropout, init, rslora) = (8.0, 0.0, LoraInit::Kaiming, false);
        let options = LoraOptions { rank: 17, alpha, dropout, targets: Targets::AllLinear, init, rslora };
        let error = LoraSpec::from_options(&options, &config()).unwrap_err().to_string();
        assert!(error.contains("lora.rank = 17: expected at most 16"), "{error}");
    }

    #[test]
    fn rank_stabilised_scale() {
        let spec = LoraSpec { rslora: true, ..spec(Targets::AllLinear).unwrap() };
        assert_eq!(spec.scale(), 4.0);
    }
}
