//! Adapter directories as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use safetensors::{Dtype, tensor::TensorView};

use super::{Adapter, AdapterConfig, AdapterLayer, LoraPair, TargetRank, experts::ExpertTensors, modules::Modules};
use crate::{
    DecoderConfig, DecoderError, Projection,
    families::{Module, Names},
    weights::TensorStore,
};

/// What PEFT puts before the module's path.
const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A tensor of a linear, from its name: layer and number of the module.
enum Key {
    A(usize, usize),
    B(usize, usize),
    Magnitude(usize, usize),
    Bias(usize, usize),
}

impl Adapter {
    /// Reads an adapter directory and checks it against its base.
    ///
    /// # Errors
    /// If a file is missing or broken, a variant of LoRA is not supported, nothing is targeted, or the adapter was made
    /// for another base. A base whose vocabulary was enlarged before training is not another one where embedding and head
    /// come with the adapter.
    pub fn load(dir: &Path, base: &DecoderConfig) -> Result<Self, DecoderError> {
        let config = AdapterConfig::load(dir)?;
        let path = dir.join(WEIGHTS);
        if !path.exists() {
            let old = dir.join("adapter_model.bin").exists();
            return Err(DecoderError::Missing {
                path: dir.to_owned(),
                what: WEIGHTS.to_owned(),
                hint: match old {
                    true => "adapter_model.bin is not read; save the adapter again with safe_serialization=True",
                    false => "an adapter is a directory as PEFT's save_pretrained writes it",
                }
                .to_owned(),
            });
        }
        let failed = |reason: String| DecoderError::Adapter { path: path.clone(), reason };
        let targets = config
            .targets(base)
            .map_err(|reason| DecoderError::Adapter { path: dir.join("adapter_config.json"), reason })?;
        let store = TensorStore::open_file(&path)?;
        let (names, known) = base.modules();
        let (mut a, mut b, mut modules) = (BTreeMap::new(), BTreeMap::new(), Modules::default());
        let (mut magnitudes, mut biases) = (BTreeMap::new(), BTreeMap::new());
        let mut experts = ExpertTensors::default();
        for name in store.names() {
            let path = module_path(name);
            if path.is_some_and(|path| modules.take(path, name) || experts.take(path, name, base)) {
                continue;
            }
            match path.and_then(|path| parse(path, names, &known)) {
                Some(Key::A(layer, module)) => a.insert((layer, module), name),
                Some(Key::B(layer, module)) => b.insert((layer, module), name),
                Some(Key::Magnitude(layer, module)) if config.use_dora => magnitudes.insert((layer, module), name),
                Some(Key::Bias(layer, module)) if config.lora_bias => biases.insert((layer, module), name),
                Some(Key::Magnitude(..) | Key::Bias(..)) => {
                    return Err(failed(format!("tensor `{name}` is there, but adapter_config.json does not say so")));
                }
                None if ["lm_head", "embed_tokens"].iter().any(|module| name.contains(module)) => {
                    return Err(failed(format!(
                        "tensor `{name}` adds to the embedding or the head; they are supported as whole modules only: merge \
                         the adapter with PEFT first"
                    )));
                }
                None => {
                    return Err(failed(format!(
                        "tensor `{name}` belongs to no linear of a decoder block; only these, lm_head and embed_tokens as \
                         whole modules, are supported"
                    )));
                }
            };
        }
        if let Some(&(layer, module)) = a.keys().chain(b.keys()).find(|(layer, _)| *layer >= base.num_layers) {
            return Err(DecoderError::AdapterShape {
                path: path.clone(),
                module: names.path(layer, &known[module].name),
                found: format!("layer {layer}"),
                expected: format!("at most layer {}", base.num_layers.saturating_sub(1)),
            });
        }
        let mut layers: Vec<AdapterLayer> = Vec::with_capacity(base.num_layers);
        for (layer, targets) in targets.iter().enumerate() {
            let mut pairs = AdapterLayer::new();
            for (number, module) in known.iter().enumerate() {
                let Some(&target) = module.projections.first().and_then(|first| targets.get(first)) else { continue };
                let place = (layer, number);
                let path = names.path(layer, &module.name);
                let (Some(a), Some(b)) = (a.remove(&place), b.remove(&place)) else {
                    return Err(failed(format!(
                        "`{path}` is targeted by adapter_config.json, but its lora_A and lora_B are not both there"
                    )));
                };
                let (magnitude, bias) = (magnitudes.remove(&place), biases.remove(&place));
                if (magnitude.is_some(), bias.is_some()) != (config.use_dora, config.lora_bias) {
                    return Err(failed(format!(
                        "`{path}` lacks the magnitude or the bias that adapter_config.json names"
                    )));
                }
                for &projection in &module.projections {
                    let vector = |name: Option<&str>| vector(&store, &path, projection, base, name);
                    let pair = pair(&store, &path, projection, target, base, [a, b])?;
                    let pair = LoraPair { magnitude: vector(magnitude)?, bias: vector(bias)?, ..pair };
                    pairs.insert(projection, pair);
                }
            }
            layers.push(pairs);
        }
        if let Some(name) = a.values().chain(b.values()).chain(magnitudes.values()).chain(biases.values()).next() {
            return Err(failed(format!("tensor `{name}` is not targeted by adapter_config.json")));
        }
        let modules_to_save = modules.resolve(&config, &store, base)?;
        let experts = experts.resolve(&config, &store, base)?;
        let adapter = Self::new(config, layers, modules_to_save);
        Ok(if experts.is_empty() { adapter } else { adapter.with_experts(experts) })
    }

    /// Writes the adapter in PEFT's layout, f32; the directory is made if needed. Each file appears whole or not at all.
    ///
    /// # Errors
    /// If a file cannot be written, or experts are adapted, whose layout is not written.
    pub fn save(&self, dir: &Path) -> Result<(), DecoderError> {
        if !self.experts.is_empty() || !self.layers.iter().flat_map(AdapterLayer::values).all(LoraPair::is_plain) {
            return Err(DecoderError::AdapterModule { module: "experts, magnitudes or biases".to_owned() });
        }
        fs::create_dir_all(dir).map_err(|e| DecoderError::write(dir, e))?;
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (layer, pairs) in self.layers.iter().enumerate() {
            for (projection, pair) in pairs {
                let module = projection.path(layer);
                let (inputs, outputs) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
                tensors.push((format!("{PREFIX}{module}.lora_A.weight"), vec![pair.rank, inputs], bytes(&pair.a)));
                tensors.push((format!("{PREFIX}{module}.lora_B.weight"), vec![outputs, pair.rank], bytes(&pair.b)));
            }
        }
        for (module, tensor) in &self.modules_to_save {
            tensors.push((format!("{PREFIX}{module}.weight"), tensor.shape.clone(), bytes(&tensor.to_f32())));
        }
        let path = dir.join(WEIGHTS);
        let broken = |error: safetensors::SafeTensorError| DecoderError::Weights {
            path: path.clone(),
            reason: error.to_string(),
        };
        let views = tensors
            .iter()
            .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data).map_err(broken)?)))
            .collect::<Result<Vec<_>, DecoderError>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
        write_whole(&path, &file)?;
        write_whole(&dir.join("adapter_config.json"), (self.config.to_json() + "\n").as_bytes())
    }
}

/// Reads the pair of a projection, of the rank that the configuration gives and the features of the base, from the matrices
/// of its module.
fn pair(
    store: &TensorStore,
    module: &str,
    projection: Projection,
    target: TargetRank,
    base: &DecoderConfig,
    [a, b]: [&str; 2],
) -> Result<LoraPair, DecoderError> {
    let (outputs, inputs) = projection.dims(base);
    let read = |name: &str, part: &str, expected: [usize; 2]| {
        let tensor = store.tensor(name)?;
        if tensor.shape == expected {
            return Ok(tensor);
        }
        Err(DecoderError::AdapterShape {
            path: store.root().to_owned(),
            module: module.to_owned(),
            found: format!("a {part} of shape {:?}", tensor.shape),
            expected: format!("{expected:?} (rank {} from adapter_config.json)", target.rank),
        })
    };
    let shared = base.modules().0.rows(base, projection);
    let all = shared.as_ref().map_or(outputs, |(rows, _)| *rows);
    let (a, b) = (read(a, "lora_A", [target.rank, inputs])?, read(b, "lora_B", [all, target.rank])?);
    let b = match shared {
        Some((_, runs)) => b.select_rows(runs.into_iter()),
        None => b,
    };
    Ok(LoraPair::new(a.to_f32().into_owned(), b.to_f32().into_owned(), target.rank, target.scale))
}

/// The elements of a vector of a module that are a projection's.
fn vector(
    store: &TensorStore,
    module: &str,
    projection: Projection,
    base: &DecoderConfig,
    name: Option<&str>,
) -> Result<Option<Vec<f32>>, DecoderError> {
    let Some(name) = name else { return Ok(None) };
    let (shared, tensor) = (base.modules().0.rows(base, projection), store.tensor(name)?);
    let all = shared.as_ref().map_or(projection.dims(base).0, |(rows, _)| *rows);
    if tensor.data.len() != all {
        return Err(DecoderError::AdapterShape {
            path: store.root().to_owned(),
            module: module.to_owned(),
            found: format!("a vector of shape {:?}", tensor.shape),
            expected: format!("{:?}", [all]),
        });
    }
    let tensor = tensor.reshaped(&[all]);
    Ok(Some(match shared {
        Some((_, runs)) => tensor.select_rows(runs.into_iter()).to_f32().into_owned(),
        None => tensor.to_f32().into_owned(),
    }))
}

/// The path in `base_model.model.<path>.weight`; the adapter's name at its end (`lora_A.default`), as in a raw state
/// dictionary, is tolerated.
fn module_path(name: &str) -> Option<&str> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    let path = match path.strip_suffix(".weight") {
        Some(path) => path,
        // These are no weights of modules.
        None if path.ends_with("lora_magnitude_vector") || path.ends_with("lora_B.bias") => path,
        None => return None,
    };
    Some(path.strip_suffix(".default").unwrap_or(path))
}

/// The place of a path that ends in `lora_A` or `lora_B`.
fn parse(path: &str, names: &Names, known: &[Module]) -> Option<Key> {
    let (module, matrix) = match path.strip_suffix(".lora_B.bias") {
        Some(module) => (module, "bias"),
        None => path.rsplit_once('.')?,
    };
    let root = names.roots.iter().find(|root| module.starts_with(**root)).copied().unwrap_or_default();
    let (layer, module) = module.strip_prefix(root)?.strip_prefix(names.layers)?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let module = known.iter().position(|known| known.name == module)?;
    match matrix {
        "lora_A" => Some(Key::A(layer, module)),
        "lora_B" => Some(Key::B(layer, module)),
        "lora_magnitude_vector" => Some(Key::Magnitude(layer, module)),
        "bias" => Some(Key::Bias(layer, module)),
        _ => None,
    }
}

/// [`harness_core::atomic_write`] with the path in its error.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DecoderError> {
    harness_core::atomic_write(path, bytes).map_err(|source| DecoderError::write(path, source))
}
