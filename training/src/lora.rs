//! Low-rank adapters (Hu et al. 2021): which projections, how they begin, and what is written.

mod options;

use std::path::Path;

use harness_core::{Seed, nearest};
use harness_decoder::{AdapterConfig, DecoderConfig, LinearPlace, Projection, TargetModules, linear_names};
use harness_kernels::HostTensor;
pub use options::{LoraInit, LoraOptions, Targets};

use crate::{
    TrainingError,
    backend::{self, Backend},
    params::ParamStore,
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
    /// Whether gate and up, and down, of every expert get an addition.
    pub experts: [bool; 2],
    /// Whether the magnitudes of the changed weights' rows are trained apart (Liu et al. 2024).
    pub dora: bool,
    /// Where blocks differ: the pattern that says so, and the projections of every block.
    pub pattern: Option<(String, Vec<Vec<Projection>>)>,
    /// How `A` begins; `B` begins at 0.
    pub init: LoraInit,
}

impl LoraSpec {
    /// An adapter of these projections in every block, with PEFT's defaults for all else.
    pub fn new(rank: usize, alpha: f64, targets: Vec<Projection>) -> Self {
        Self {
            rank,
            alpha,
            rslora: false,
            dropout: 0.0,
            targets,
            experts: [false; 2],
            dora: false,
            pattern: None,
            init: LoraInit::Kaiming,
        }
    }

    /// The spec of a recipe's options for a decoder.
    ///
    /// # Errors
    /// [`TrainingError::Setting`] for a module that the decoder does not have, or a rank larger than a targeted matrix.
    pub fn from_options(options: &LoraOptions, config: &DecoderConfig) -> Result<Self, TrainingError> {
        let setting = |found: &str, message: String| {
            let expected = format!("\"all-linear\", names, or a pattern over whole paths: {message}");
            TrainingError::setting("lora.targets", format!("{found:?}"), expected)
        };
        let places: Vec<Vec<LinearPlace>> = (0..config.num_layers).map(|layer| config.linears(layer)).collect();
        let no_module = |found: &str| format!("this matches no module; {}", modules(found, &places));
        let chosen = |means: &dyn Fn(&LinearPlace) -> bool| -> Vec<Vec<Projection>> {
            let of =
                |places: &Vec<LinearPlace>| places.iter().filter(|place| means(place)).map(|p| p.projection).collect();
            places.iter().map(of).collect()
        };
        let layers = match &options.targets {
            Targets::AllLinear => chosen(&|_| true),
            Targets::Modules(names) => {
                for name in names {
                    if !places.iter().flatten().any(|place| is_named(&place.path, name)) {
                        return Err(setting(name, no_module(name)));
                    }
                }
                chosen(&|place| names.iter().any(|name| is_named(&place.path, name)))
            }
            Targets::Pattern(text) => {
                let regex = pattern(text).map_err(|message| setting(text, message))?;
                chosen(&|place| regex.is_match(&place.path))
            }
        };
        if let (Targets::Pattern(text), true) = (&options.targets, layers.iter().all(Vec::is_empty)) {
            return Err(setting(text, no_module(text)));
        }
        let mut targets = layers.concat();
        targets.sort();
        targets.dedup();
        for place in places
            .iter()
            .zip(&layers)
            .flat_map(|(places, chosen)| places.iter().filter(move |place| chosen.contains(&place.projection)))
        {
            let (out, inp) = (place.module_outputs(), place.inputs);
            // What weighs or chooses experts has few rows, and is adapted with them.
            if matches!(place.projection, Projection::Router | Projection::SharedSigmoid) {
                continue;
            }
            if options.rank > out.min(inp) {
                let expected = format!(
                    "at most {}: {} is a matrix of {out} x {inp}, and a larger rank adds nothing",
                    out.min(inp),
                    place.module
                );
                return Err(TrainingError::setting("lora.rank", options.rank, expected));
            }
        }
        let layers = match &options.targets {
            Targets::Pattern(text) => Some((text.clone(), layers)),
            _ => None,
        };
        Ok(Self {
            experts: experts(options, config)?,
            dora: dora(options)?,
            pattern: layers,
            rslora: options.rslora,
            dropout: options.dropout as f32,
            init: options.init,
            ..Self::new(options.rank, options.alpha, targets)
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

    /// Writes the trained matrices into a folder, as PEFT names and stores them.
    ///
    /// # Errors
    /// If the device fails, or a file cannot be written.
    pub fn save<B: Backend>(
        &self,
        (backend, store): (&B, &ParamStore<B>),
        config: &DecoderConfig,
        base: &str,
        folder: &Path,
    ) -> Result<(), TrainingError> {
        let written = AdapterConfig {
            base_model_name_or_path: Some(base.to_owned()),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: (f64::from(self.dropout) * 1e6).round() / 1e6,
            use_rslora: self.rslora,
            target_modules: Some(match &self.pattern {
                Some((pattern, _)) => TargetModules::Pattern(pattern.clone()),
                None => TargetModules::Names(self.names(config)),
            }),
            target_parameters: self.parameters(config),
            use_dora: self.dora,
            ..AdapterConfig::default()
        };
        let mut tensors = vec![];
        for param in store.layout().params() {
            let data = store.value(backend, param)?;
            tensors.push((param.name.clone(), HostTensor::from_f32(param.shape.clone(), data)));
        }
        Ok(written.save(&tensors, folder)?)
    }

    /// The stacked weights of experts that get an addition, as PEFT names them.
    fn parameters(&self, config: &DecoderConfig) -> Option<Vec<String>> {
        let stacked = (0..config.num_layers).find_map(|layer| config.stacked_experts(layer))?;
        let module = stacked.path.rsplit('.').take(2).collect::<Vec<_>>();
        let stem = module.into_iter().rev().collect::<Vec<_>>().join(".");
        let chosen = stacked.names.iter().zip(self.experts).filter(|(_, chosen)| *chosen);
        let mut names: Vec<String> = chosen.map(|(name, _)| format!("{stem}.{name}")).collect();
        names.sort();
        (!names.is_empty()).then_some(names)
    }

    /// The shortest names that mean the targeted modules and no others, in the order of a block.
    fn names(&self, config: &DecoderConfig) -> Vec<String> {
        let places: Vec<LinearPlace> = (0..config.num_layers).flat_map(|layer| config.linears(layer)).collect();
        let mut names: Vec<String> = vec![];
        for place in places.iter().filter(|place| self.targets.contains(&place.projection)) {
            let short = place.module.rsplit('.').next().unwrap_or_default();
            let means = |other: &LinearPlace| other.module.rsplit('.').next() == Some(short);
            let alone =
                places.iter().filter(|other| means(other)).all(|other| self.targets.contains(&other.projection));
            let name = if alone { short } else { &place.module };
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// Draws every `A` from its own random stream; `B` is 0, and magnitudes are those of the base's rows.
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

/// Whether a name means a path: all of it, or its last segments.
fn is_named(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|stem| stem.ends_with('.'))
}

/// Whether gate and up, and down, of every expert get an addition.
fn experts(options: &LoraOptions, config: &DecoderConfig) -> Result<[bool; 2], TrainingError> {
    let mut found = [false; 2];
    let stacked = (0..config.num_layers).find_map(|layer| config.stacked_experts(layer));
    let paths = stacked.map(|stacked| stacked.names.map(|name| format!("{}.{name}", stacked.path)));
    for name in &options.target_parameters {
        let meant = paths.iter().flatten().map(|path| is_named(path, name));
        let meant: Vec<bool> = meant.collect();
        if !meant.contains(&true) {
            let there = match &paths {
                Some(paths) => format!("the weights of experts are {}", paths.join(", ")),
                None => "this base has no experts whose weights can be adapted".to_owned(),
            };
            return Err(TrainingError::setting("lora.target_parameters", format!("{name:?}"), there));
        }
        found.iter_mut().zip(meant).for_each(|(found, meant)| *found |= meant);
    }
    let width = config.expert_width().min(config.hidden_size);
    if found != [false; 2] && options.rank > width {
        let expected = format!("at most {width}, the width of an expert");
        return Err(TrainingError::setting("lora.rank", options.rank, expected));
    }
    if found != [false; 2] && options.dropout > 0.0 {
        let expected = "0 beside lora.target_parameters, as in PEFT".to_owned();
        return Err(TrainingError::setting("lora.dropout", options.dropout, expected));
    }
    Ok(found)
}

/// Whether magnitudes are trained apart.
fn dora(options: &LoraOptions) -> Result<bool, TrainingError> {
    if options.dora && options.dropout > 0.0 {
        let expected = "0 beside lora.dora = true".to_owned();
        return Err(TrainingError::setting("lora.dropout", options.dropout, expected));
    }
    if options.dora && !options.target_parameters.is_empty() {
        let expected = "false beside lora.target_parameters".to_owned();
        return Err(TrainingError::setting("lora.dora", true, expected));
    }
    Ok(options.dora)
}

/// A regular expression over whole module paths.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn pattern(text: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(&format!(r"\A(?:{text})\z"))
        .map_err(|error| format!("{text:?} is not a regular expression: {error}"))
}

/// What to say of a name that no family has, with the nearest one.
pub(crate) fn unknown_target(found: &str) -> String {
    let names = linear_names();
    let near = nearest(found, names.iter().map(String::as_str).chain(["all-linear"]));
    let near = near.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
    format!("{found:?} matches no module of any family{near}")
}

/// The names of the modules there are, with the one that is nearest to what was asked for.
fn modules(found: &str, places: &[Vec<LinearPlace>]) -> String {
    let mut names: Vec<&str> = vec![];
    for place in places.iter().flatten() {
        let name = place.module.rsplit('.').next().unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let near = nearest(found, names.iter().copied().chain(["all-linear"]));
    let near = near.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
    let path = |layer: &[LinearPlace]| layer.first().map(|place| place.path.clone()).unwrap_or_default();
    let [first, last] = [places.first(), places.last()].map(|layer| path(layer.map_or(&[], Vec::as_slice)));
    format!("modules are {} (from {first} to {last}){near}", names.join(", "))
}

/// Name of the magnitudes of a module in the adapter's file.
pub(crate) fn magnitude_name(path: &str) -> String {
    format!("base_model.model.{path}.lora_magnitude_vector")
}

/// Name of a matrix (`A` or `B`) of a module in the adapter's file.
pub(crate) fn tensor_name(path: &str, matrix: &str) -> String {
    format!("base_model.model.{path}.lora_{matrix}.weight")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn spec(targets: Targets) -> Result<LoraSpec, TrainingError> {
        let (rank, alpha, dropout, init) = (4, 8.0, 0.0, LoraInit::Kaiming);
        let options =
            LoraOptions { rank, alpha, dropout, targets, init, rslora: false, target_parameters: vec![], dora: false };
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
        assert!(refused("q_proj").contains("matches no module; modules are q_proj, k_proj"));
        assert!(refused("(").contains("not a regular expression"));
    }

    #[test]
    fn a_rank_larger_than_a_matrix_is_refused() {
        let (alpha, dropout, init, rslora) = (8.0, 0.0, LoraInit::Kaiming, false);
        let (targets, target_parameters) = (Targets::AllLinear, vec![]);
        let options = LoraOptions { rank: 17, alpha, dropout, targets, init, rslora, target_parameters, dora: false };
        let error = LoraSpec::from_options(&options, &config()).unwrap_err().to_string();
        assert!(error.contains("lora.rank = 17: expected at most 16"), "{error}");
    }

    #[test]
    fn rank_stabilised_scale() {
        let spec = LoraSpec { rslora: true, ..spec(Targets::AllLinear).unwrap() };
        assert_eq!(spec.scale(), 4.0);
    }
}
