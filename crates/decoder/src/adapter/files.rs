//! Adapter directories as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use safetensors::{Dtype, tensor::TensorView};

use super::{
    Adapter, AdapterConfig, AdapterLayer, Initialisation, LoraPair, TargetRank,
    experts::ExpertTensors,
    modules::{Modules, saved},
    top::TopTensors,
};
use crate::{DecoderConfig, DecoderError, LinearPlace, Projection, families::Names, weights::TensorStore};
use harness_kernels::HostTensor;

/// What PEFT puts before the module's path.
const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";

/// How names of tensors end that do not end in `.weight`.
const UNWEIGHTED: [&str; 5] =
    ["lora_magnitude_vector", ".bias", "lora_embedding_A", "lora_embedding_B", "trainable_tokens_delta"];
/// The tensors of a linear's module.
const MATRICES: [&str; 4] = ["lora_A", "lora_B", "lora_magnitude_vector", "lora_B.bias"];

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
        check_initialisation(&config, &targets, base).map_err(failed)?;
        let store = TensorStore::open_file(&path)?;
        let names = &base.architecture.family().names;
        // Names of tensors by layer and module, in the order of `MATRICES`.
        let mut found: BTreeMap<(usize, String), [Option<&str>; 4]> = BTreeMap::new();
        let (mut modules, mut experts, mut tops) =
            (Modules::default(), ExpertTensors::default(), TopTensors::default());
        let places: Vec<Vec<LinearPlace>> = (0..base.num_layers)
            .map(|layer| base.linears(layer).into_iter().chain(base.router(layer)).collect())
            .collect();
        for name in store.names() {
            let path = module_path(name);
            if path.is_some_and(|path| {
                modules.take(path, name, base) || tops.take(path, name, base) || experts.take(path, name, base)
            }) {
                continue;
            }
            let has = |layer: usize, module: &str| match places.get(layer) {
                Some(places) => places.iter().any(|place| place.module == module),
                None => places.iter().flatten().any(|place| place.module == module),
            };
            match path.and_then(|path| parse(path, names)) {
                Some((_, _, 2)) if !config.use_dora => return Err(failed(unsaid(name))),
                Some((_, _, 3)) if !config.lora_bias => return Err(failed(unsaid(name))),
                Some((layer, module, matrix)) if has(layer, module) => {
                    found.entry((layer, module.to_owned())).or_default()[matrix] = Some(name);
                }
                _ => {
                    return Err(failed(format!(
                        "tensor `{name}` belongs to no linear of a decoder block, nor to the embedding or the head"
                    )));
                }
            }
        }
        if let Some((layer, module)) = found.keys().find(|(layer, _)| *layer >= base.num_layers) {
            return Err(DecoderError::AdapterShape {
                path: path.clone(),
                module: names.path(*layer, module),
                found: format!("layer {layer}"),
                expected: format!("at most layer {}", base.num_layers.saturating_sub(1)),
            });
        }
        let mut layers: Vec<AdapterLayer> = Vec::with_capacity(base.num_layers);
        for (layer, (targets, places)) in targets.iter().zip(&places).enumerate() {
            let mut pairs = AdapterLayer::new();
            for place in places {
                let Some(&target) = targets.get(&place.projection) else { continue };
                let LinearPlace { projection, module, path, .. } = place;
                let tensors = found.get(&(layer, module.clone())).copied().unwrap_or_default();
                let [Some(a), Some(b), magnitude, bias] = tensors else {
                    return Err(failed(format!(
                        "`{path}` is targeted by adapter_config.json, but its lora_A and lora_B are not both there"
                    )));
                };
                if (magnitude.is_some(), bias.is_some()) != (config.use_dora, config.lora_bias) {
                    return Err(failed(format!(
                        "`{path}` lacks the magnitude or the bias that adapter_config.json names"
                    )));
                }
                let vector = |name: Option<&str>| vector(&store, place, name);
                let pair = pair(&store, place, target, [a, b])?;
                pairs.insert(*projection, LoraPair { magnitude: vector(magnitude)?, bias: vector(bias)?, ..pair });
            }
            found.retain(|(of, module), _| {
                let targeted = |place: &LinearPlace| targets.contains_key(&place.projection);
                *of != layer || !places.iter().any(|place| targeted(place) && place.module == *module)
            });
            layers.push(pairs);
        }
        if let Some(name) = found.values().flatten().flatten().next() {
            return Err(failed(format!("tensor `{name}` is not targeted by adapter_config.json")));
        }
        let modules_to_save = modules.resolve(&config, &store, base)?;
        let experts = experts.resolve(&config, &store, base)?;
        let whole = saved(&config, base).map_err(failed)?;
        let top_targets = config.top_targets(base).map_err(failed)?;
        let adapter = Self::new(config, layers, modules_to_save);
        let rows = adapter.embedding_rows(base.vocab_size);
        let top = tops.resolve(&adapter.config, top_targets, &store, base, rows, whole)?;
        if base.block.head_bias && adapter.modules_to_save.contains_key("lm_head") != top.head_bias.is_some() {
            return Err(failed(format!("the weight and the bias of `{}` are not both there", names.head)));
        }
        Ok(if experts.is_empty() && top.is_empty() { adapter } else { adapter.with_more(experts, top) })
    }

    /// Writes the adapter in PEFT's layout, f32; the directory is made if needed. Each file appears whole or not at all.
    ///
    /// # Errors
    /// If a file cannot be written, or experts are adapted, whose layout is not written.
    pub fn save(&self, dir: &Path) -> Result<(), DecoderError> {
        if !self.experts.is_empty()
            || !self.top.is_empty()
            || self.config.initialisation.is_some()
            || !self.layers.iter().flat_map(AdapterLayer::values).all(LoraPair::is_plain)
        {
            return Err(DecoderError::AdapterModule {
                module: "experts, embeddings, magnitudes, biases or parts of the base".to_owned(),
            });
        }
        let mut tensors: Vec<(String, HostTensor)> = Vec::new();
        for (layer, pairs) in self.layers.iter().enumerate() {
            for (projection, pair) in pairs {
                let module = projection.path(layer);
                let (inputs, outputs) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
                let mut push = |part: &str, shape: [usize; 2], data: &[f32]| {
                    let name = format!("{PREFIX}{module}.{part}.weight");
                    tensors.push((name, HostTensor::from_f32(shape, data.to_vec())));
                };
                push("lora_A", [pair.rank, inputs], &pair.a);
                push("lora_B", [outputs, pair.rank], &pair.b);
            }
        }
        for (module, tensor) in &self.modules_to_save {
            tensors.push((format!("{PREFIX}{module}.weight"), tensor.clone()));
        }
        self.config.save(&tensors, dir)
    }
}

impl AdapterConfig {
    /// Writes an adapter of these tensors in PEFT's layout, f32; the directory is made if needed. Each file appears whole or
    /// not at all.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, tensors: &[(String, HostTensor)], dir: &Path) -> Result<(), DecoderError> {
        fs::create_dir_all(dir).map_err(|e| DecoderError::write(dir, e))?;
        let bytes = |tensor: &HostTensor| tensor.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<Vec<u8>> = tensors.iter().map(|(_, tensor)| bytes(tensor)).collect();
        let path = dir.join(WEIGHTS);
        let broken = |error: safetensors::SafeTensorError| DecoderError::Weights {
            path: path.clone(),
            reason: error.to_string(),
        };
        let view = |((name, tensor), data)| -> Result<_, DecoderError> {
            let (name, tensor): (&String, &HostTensor) = (name, tensor);
            let data: &Vec<u8> = data;
            Ok((name, TensorView::new(Dtype::F32, tensor.shape.clone(), data).map_err(broken)?))
        };
        let pairs = tensors.iter().map(|(name, tensor)| (name, tensor)).zip(&data);
        let views = pairs.map(view).collect::<Result<Vec<_>, DecoderError>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
        write_whole(&path, &file)?;
        write_whole(&dir.join("adapter_config.json"), (self.to_json() + "\n").as_bytes())
    }
}

/// Refuses parts of the base that cannot be taken out as PEFT does it.
fn check_initialisation(
    config: &AdapterConfig,
    targets: &[BTreeMap<Projection, TargetRank>],
    base: &DecoderConfig,
) -> Result<(), String> {
    let Some(initialisation) = config.initialisation else { return Ok(()) };
    if initialisation == Initialisation::Olora && base.architecture.family().names.transposed {
        return Err("`init_lora_weights` \"olora\" is not supported for weights that are stored transposed".to_owned());
    }
    let parameters = config.target_parameters.as_ref().is_some_and(|names| !names.is_empty());
    if parameters || config.top_targets(base)?.iter().any(Option::is_some) {
        return Err(
            "`init_lora_weights` that changes the base is supported for linears of blocks only; the adapter targets \
                    the embedding, the head or experts"
                .to_owned(),
        );
    }
    match targets.iter().flat_map(BTreeMap::values).find(|target| target.scale <= 0.0) {
        Some(target) => {
            Err(format!("`init_lora_weights` that changes the base has scale {}, expected above 0", target.scale))
        }
        None => Ok(()),
    }
}

/// What is wrong with a tensor that the configuration does not speak of.
fn unsaid(name: &str) -> String {
    format!("tensor `{name}` is there, but adapter_config.json does not say so")
}

/// Reads the pair of a linear, of the rank that the configuration gives and the features of the base, from the matrices of
/// its module.
fn pair(
    store: &TensorStore,
    place: &LinearPlace,
    target: TargetRank,
    [a, b]: [&str; 2],
) -> Result<LoraPair, DecoderError> {
    let read = |name: &str, part: &str, expected: [usize; 2]| {
        let tensor = store.tensor(name)?;
        if tensor.shape == expected {
            return Ok(tensor);
        }
        Err(DecoderError::AdapterShape {
            path: store.root().to_owned(),
            module: place.path.clone(),
            found: format!("a {part} of shape {:?}", tensor.shape),
            expected: format!("{expected:?} (rank {} from adapter_config.json)", target.rank),
        })
    };
    let (a, b) =
        (read(a, "lora_A", [target.rank, place.inputs])?, read(b, "lora_B", [place.module_outputs(), target.rank])?);
    let b = own_rows(place, b);
    Ok(LoraPair::new(a.to_f32().into_owned(), b.to_f32().into_owned(), target.rank, target.scale))
}

/// The elements of a vector of a module that are a linear's.
fn vector(store: &TensorStore, place: &LinearPlace, name: Option<&str>) -> Result<Option<Vec<f32>>, DecoderError> {
    let Some(name) = name else { return Ok(None) };
    let (all, tensor) = (place.module_outputs(), store.tensor(name)?);
    if tensor.data.len() != all {
        return Err(DecoderError::AdapterShape {
            path: store.root().to_owned(),
            module: place.path.clone(),
            found: format!("a vector of shape {:?}", tensor.shape),
            expected: format!("{:?}", [all]),
        });
    }
    Ok(Some(own_rows(place, tensor.reshaped(&[all])).to_f32().into_owned()))
}

/// The rows of a module's tensor that are a linear's.
fn own_rows(place: &LinearPlace, tensor: HostTensor) -> HostTensor {
    match &place.fused {
        Some((_, runs)) => tensor.select_rows(runs.iter().cloned()),
        None => tensor,
    }
}

/// The path in `base_model.model.<path>.weight`; the adapter's name at its end (`lora_A.default`), as in a raw state
/// dictionary, is tolerated.
fn module_path(name: &str) -> Option<&str> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    let weight = path.strip_suffix(".weight");
    let path = weight.unwrap_or(path);
    let path = path.strip_suffix(".default").unwrap_or(path);
    // Some are no weights of modules.
    (weight.is_some() || UNWEIGHTED.iter().any(|end| path.ends_with(end))).then_some(path)
}

/// Layer, module behind the layer's number, and which of `MATRICES` a path leads to.
fn parse<'p>(path: &'p str, names: &Names) -> Option<(usize, &'p str, usize)> {
    let end = |end: &&str| path.strip_suffix(*end).and_then(|module| module.strip_suffix('.'));
    let (matrix, module) = MATRICES.iter().enumerate().find_map(|(at, name)| Some((at, end(name)?)))?;
    let root = names.roots.iter().find(|root| module.starts_with(**root)).copied().unwrap_or_default();
    let (layer, module) = module.strip_prefix(root)?.strip_prefix(names.layers)?.split_once('.')?;
    Some((layer.parse().ok()?, module, matrix))
}

/// [`harness_core::atomic_write`] with the path in its error.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DecoderError> {
    harness_core::atomic_write(path, bytes).map_err(|source| DecoderError::write(path, source))
}
