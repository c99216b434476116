//! Embedding and head that an adapter brings whole, as PEFT loads them.

use std::collections::BTreeMap;

use super::{AdapterConfig, places::Top, targets::may_be_tied};
use crate::{DecoderConfig, DecoderError, weights::TensorStore};
use harness_kernels::HostTensor;

const EMBED: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";
/// What the two are called here, whatever the base calls them.
const MODULES: [&str; 2] = [EMBED, HEAD];

/// Which of the tensors of a module one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// The module's own: the trained copy where the configuration saves the module, else the base's module.
    Plain,
    /// The trained copy under the name it has in memory; PEFT reads the plain one.
    Copy,
    /// The base's module beside a trained copy, or beneath a low-rank addition.
    Original,
}

/// The whole modules of an adapter's file: names of tensors by module and form.
#[derive(Default)]
pub(super) struct Modules<'a>(BTreeMap<(&'static str, Form), &'a str>);

impl<'a> Modules<'a> {
    /// Takes up a tensor whose path, without `.weight` and the adapter's name, is `path`; whether it is one of these.
    pub(super) fn take(&mut self, path: &str, name: &'a str, base: &DecoderConfig) -> bool {
        let (module, form) = match path.rsplit_once('.') {
            Some((module, "modules_to_save")) => (module, Form::Copy),
            Some((module, "original_module" | "base_layer")) => (module, Form::Original),
            _ => (path, Form::Plain),
        };
        let Some(top) = Top::at(module, base) else { return false };
        self.0.insert((MODULES[top as usize], form), name);
        true
    }

    /// The modules that replace the base's, by path. Over a base whose embedding and head are one tensor, what replaces
    /// the tensor replaces both, and a trained copy only its module, unless the configuration ties the copies.
    ///
    /// # Errors
    /// If a module is not there, does not fit the base, or only one of two that were enlarged together is there.
    pub(super) fn resolve(
        &self,
        config: &AdapterConfig,
        store: &TensorStore,
        base: &DecoderConfig,
    ) -> Result<BTreeMap<String, HostTensor>, DecoderError> {
        let failed = |reason: String| DecoderError::Adapter { path: store.root().to_owned(), reason };
        let tied = base.tie_word_embeddings;
        let listed = config.modules_to_save.as_deref().unwrap_or_default();
        let [embed, head] = saved(config, base).map_err(failed)?;
        let saves = |module: &str| if module == EMBED { embed } else { head };
        let ties_copies = tied && config.ensure_weight_tying && may_be_tied(listed);
        let read = |module, form| self.0.get(&(module, form)).map(|name| store.tensor(name)).transpose();
        let (mut copies, mut originals) = (BTreeMap::new(), BTreeMap::new());
        for module in [EMBED, HEAD] {
            let plain = read(module, Form::Plain)?;
            if saves(module) || ties_copies {
                let copy = plain.map_or_else(|| read(module, Form::Copy), |plain| Ok(Some(plain)))?;
                let copy = copy.ok_or_else(|| {
                    failed(format!("`modules_to_save` names {listed:?}, but there is no tensor `{module}.weight`"))
                })?;
                copies.insert(module, copy);
                originals.extend(read(module, Form::Original)?.map(|tensor| (module, tensor)));
            } else if let Some(name) = self.0.get(&(module, Form::Copy)) {
                return Err(failed(format!(
                    "tensor `{name}` is a trained copy of a module, but `modules_to_save` of adapter_config.json does not name it"
                )));
            } else {
                let original = plain.map_or_else(|| read(module, Form::Original), |plain| Ok(Some(plain)))?;
                originals.extend(original.map(|tensor| (module, tensor)));
            }
        }
        for (module, tensor) in copies.iter().chain(&originals) {
            if tensor.shape.len() != 2 || tensor.shape[1] != base.hidden_size {
                return Err(DecoderError::AdapterShape {
                    path: store.root().to_owned(),
                    module: (*module).to_owned(),
                    found: format!("a weight of shape {:?}", tensor.shape),
                    expected: format!("{:?}", [base.vocab_size, base.hidden_size]),
                });
            }
        }
        let one = |tensors: &BTreeMap<&str, HostTensor>| match (tensors.get(EMBED), tensors.get(HEAD)) {
            (Some(embed), Some(head)) if embed.shape != head.shape || embed.to_f32() != head.to_f32() => {
                Err(failed(format!(
                    "`{EMBED}` and `{HEAD}` differ, but this base ties them; the adapter was made for another base"
                )))
            }
            (embed, head) => Ok(embed.or(head).cloned()),
        };
        if tied && let Some(tensor) = one(&originals)? {
            originals.extend([(EMBED, tensor.clone()), (HEAD, tensor)]);
        }
        if ties_copies {
            one(&copies)?;
        }
        let mut modules = originals;
        modules.extend(copies);
        self.check_rows(&modules, base).map_err(failed)?;
        Ok(modules.into_iter().map(|(module, tensor)| (module.to_owned(), tensor)).collect())
    }

    /// A vocabulary of another size than the base's needs both modules, of one size.
    fn check_rows(&self, modules: &BTreeMap<&str, HostTensor>, base: &DecoderConfig) -> Result<(), String> {
        let rows = |module: &str| modules.get(module).map_or(base.vocab_size, HostTensor::rows);
        let (embed, head) = (rows(EMBED), rows(HEAD));
        if embed == head {
            return Ok(());
        }
        let (module, rows, other) = if embed == base.vocab_size { (HEAD, head, EMBED) } else { (EMBED, embed, HEAD) };
        let change = match rows.checked_sub(base.vocab_size) {
            Some(added) => format!("{added} tokens were added"),
            None => format!("{} tokens were taken away", base.vocab_size - rows),
        };
        Err(format!(
            "`{module}` has {rows} rows and the base's vocabulary {}: {change} before training, but the file has no `{other}` \
             of that size; merge the adapter with PEFT over a base that is resized first",
            base.vocab_size
        ))
    }
}

/// Whether embedding and head are saved whole.
///
/// # Errors
/// A reason, if another module is.
pub(super) fn saved(config: &AdapterConfig, base: &DecoderConfig) -> Result<[bool; 2], String> {
    let mut saved = [false; 2];
    for name in config.modules_to_save.iter().flatten() {
        let paths = Top::BOTH.map(|top| top.path(base));
        let meant = paths.iter().position(|path| path == name || path.ends_with(&format!(".{name}")));
        match meant {
            Some(at) => saved[at] = true,
            None => return Err(format!("`modules_to_save` names `{name}`, expected {}", paths.join(" or "))),
        }
    }
    Ok(saved)
}
