//! Changes of the embedding and the head: low-rank additions, and rows that are trained by token, as PEFT saves them.

use std::collections::BTreeMap;

use super::{
    config::AdapterConfig,
    pair::LoraPair,
    places::{TokenIndices, Top},
    targets::TargetRank,
};
use crate::{DecoderConfig, DecoderError, weights::TensorStore};

/// Rows of an embedding or a head that replace the base's.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRows {
    /// The tokens whose rows these are, each once.
    pub tokens: Vec<u32>,
    /// `[tokens, width]`, row-major.
    pub rows: Vec<f32>,
}

impl TokenRows {
    /// Adds a head's addition to rows of the head: PEFT puts it on top of the trained rows of a tied embedding.
    fn add(&mut self, head: &LoraPair) -> Result<(), String> {
        let LoraPair { a, b, rank, scale, magnitude, bias: _ } = head;
        if magnitude.is_some() {
            return Err(
                "`use_dora` on a head that is tied to an embedding with trained tokens is not supported; PEFT \
                        cannot compute it either"
                    .to_owned(),
            );
        }
        let width = a.len() / rank;
        for (&token, row) in self.tokens.iter().zip(self.rows.chunks_exact_mut(width)) {
            for (column, x) in row.iter_mut().enumerate() {
                let b = &b[token as usize * rank..][..*rank];
                *x += scale * b.iter().zip(a[column..].iter().step_by(width)).map(|(b, a)| b * a).sum::<f32>();
            }
        }
        Ok(())
    }
}

/// Changes of the embedding and the head that leave the rest of them as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopAdditions {
    /// Addition to the embedding: token `t` gets `scale · B · A[:, t]`, with A `[rank, vocab]` and B `[width, rank]`.
    pub embedding: Option<LoraPair>,
    /// Addition to the head.
    pub head: Option<LoraPair>,
    /// Rows of the embedding.
    pub embedding_rows: Option<TokenRows>,
    /// Rows of the head, which are also those of the embedding where the base ties them and only that was trained; then with
    /// what the head's addition adds to them.
    pub head_rows: Option<TokenRows>,
    /// The bias of a head that the file brings whole.
    pub head_bias: Option<Vec<f32>>,
}

impl TopAdditions {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The parts that are there, by name: a rank and a scale, or 0 and 1, and the values.
    pub(super) fn parts(&self) -> Vec<(String, Vec<&[f32]>)> {
        let mut parts = vec![];
        for (name, pair) in [("embedding", &self.embedding), ("head", &self.head)] {
            if let Some(pair) = pair {
                let values = [&pair.a[..], &pair.b].into_iter().chain(pair.magnitude.as_deref());
                let values = values.chain(pair.bias.as_deref()).collect();
                let more = (pair.magnitude.is_some(), pair.bias.is_some());
                parts.push((format!("{name} {} {:08x} {more:?}", pair.rank, pair.scale.to_bits()), values));
            }
        }
        for (name, rows) in [("embedding", &self.embedding_rows), ("head", &self.head_rows)] {
            if let Some(TokenRows { tokens, rows }) = rows {
                parts.push((format!("{name} rows {tokens:?}"), vec![&rows[..]]));
            }
        }
        parts.extend(self.head_bias.as_ref().map(|bias| ("head bias".to_owned(), vec![&bias[..]])));
        parts
    }
}

/// A tensor that changes a module outside of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    A,
    B,
    Bias,
    Magnitude,
    Rows,
    /// The bias of the module itself, and the base's beside or beneath it.
    OwnBias,
    BaseBias,
}

/// How the names of such tensors end.
const ENDS: [(&str, Kind); 11] = [
    (".lora_embedding_A", Kind::A),
    (".lora_embedding_B", Kind::B),
    (".lora_A", Kind::A),
    (".lora_B", Kind::B),
    (".lora_B.bias", Kind::Bias),
    (".lora_magnitude_vector", Kind::Magnitude),
    (".token_adapter.trainable_tokens_delta", Kind::Rows),
    (".bias", Kind::OwnBias),
    (".modules_to_save.bias", Kind::OwnBias),
    (".base_layer.bias", Kind::BaseBias),
    (".original_module.bias", Kind::BaseBias),
];

/// The tensors of an adapter's file that change embedding or head: their names.
#[derive(Default)]
pub(super) struct TopTensors<'a>(BTreeMap<(Top, Kind), &'a str>);

impl<'a> TopTensors<'a> {
    /// Takes up a tensor whose path, without `.weight` and the adapter's name, is `path`; whether it is one of these.
    pub(super) fn take(&mut self, path: &str, name: &'a str, base: &DecoderConfig) -> bool {
        let found = ENDS.iter().find_map(|(end, kind)| Some((Top::at(path.strip_suffix(end)?, base)?, *kind)));
        found.is_some_and(|place| self.0.insert(place, name).is_none())
    }

    /// The changes that the configuration names. `targets` are rank and scale of embedding and head where they are
    /// targeted, `rows` the number of tokens with this adapter, and `whole` says which of the two come whole.
    ///
    /// # Errors
    /// If a tensor is missing, of another shape than the base asks for, or not named by the configuration; if one module is
    /// changed in two ways.
    pub(super) fn resolve(
        mut self,
        config: &AdapterConfig,
        targets: [Option<TargetRank>; 2],
        store: &TensorStore,
        base: &DecoderConfig,
        rows: usize,
        whole: [bool; 2],
    ) -> Result<TopAdditions, DecoderError> {
        let failed = |reason: String| DecoderError::Adapter { path: store.root().to_owned(), reason };
        let width = base.block.embedding_width.unwrap_or(base.hidden_size);
        let tokens = token_indices(config, base, rows).map_err(failed)?;
        let read = |name: &str, module: &str, shape: &[usize]| {
            let tensor = store.tensor(name)?;
            if tensor.shape == shape {
                return Ok(tensor.to_f32().into_owned());
            }
            Err(DecoderError::AdapterShape {
                path: store.root().to_owned(),
                module: module.to_owned(),
                found: format!("a tensor of shape {:?}", tensor.shape),
                expected: format!("{shape:?}"),
            })
        };
        let (mut pairs, mut own) = ([None, None], [None, None]);
        for top in Top::BOTH {
            let (at, module) = (top as usize, top.path(base));
            let mut take = |kind| self.0.remove(&(top, kind));
            let changes = [targets[at].is_some(), !tokens[at].is_empty(), whole[at]];
            if changes.iter().filter(|&&changes| changes).count() > 1 {
                return Err(failed(format!(
                    "`{module}` is changed by more than one of target_modules, trainable_token_indices and modules_to_save; \
                     merge the adapter with PEFT first"
                )));
            }
            if let Some(TargetRank { rank, scale }) = targets[at] {
                let (outputs, inputs) = if top == Top::Head { (rows, width) } else { (width, rows) };
                let (Some(a), Some(b)) = (take(Kind::A), take(Kind::B)) else {
                    return Err(failed(format!(
                        "`{module}` is targeted by adapter_config.json, but its low-rank matrices are not both there"
                    )));
                };
                let bias = config.lora_bias && top == Top::Head;
                let mut vector = |wanted: bool, kind| match (wanted, take(kind)) {
                    (true, Some(name)) => read(name, &module, &[outputs]).map(Some),
                    (false, None) => Ok(None),
                    _ => Err(failed(format!(
                        "`{module}` has a magnitude or a bias that adapter_config.json does not name, or lacks one"
                    ))),
                };
                let pair = LoraPair {
                    magnitude: vector(config.use_dora, Kind::Magnitude)?,
                    bias: vector(bias, Kind::Bias)?,
                    ..LoraPair::new(
                        read(a, &module, &[rank, inputs])?,
                        read(b, &module, &[outputs, rank])?,
                        rank,
                        scale,
                    )
                };
                pairs[at] = Some(pair);
            }
            let delta = self.0.remove(&(top, Kind::Rows));
            own[at] = match (delta, tokens[at].is_empty()) {
                (Some(name), false) => {
                    let rows = read(name, &module, &[tokens[at].len(), width])?;
                    Some(TokenRows { tokens: tokens[at].clone(), rows })
                }
                (None, true) => None,
                // A tied head has the rows of the embedding.
                (None, false) if top == Top::Head && base.tie_word_embeddings && tokens[0] == tokens[1] => None,
                _ => {
                    return Err(failed(format!(
                        "`{module}` and `trainable_token_indices` of adapter_config.json do not agree: rows that are named \
                         are missing, or the other way round"
                    )));
                }
            };
        }
        let mut biases = [Kind::OwnBias, Kind::BaseBias].map(|kind| match base.block.head_bias {
            true => self.0.remove(&(Top::Head, kind)),
            false => None,
        });
        let head_bias = biases.iter_mut().find_map(Option::take);
        let head_bias = head_bias.map(|name| read(name, &Top::Head.path(base), &[rows])).transpose()?;
        if let Some(name) = self.0.values().next() {
            return Err(failed(format!("tensor `{name}` is not targeted by adapter_config.json")));
        }
        let ([embedding, head], [embedding_rows, mut head_rows]) = (pairs, own);
        if head_rows.is_none() && base.tie_word_embeddings && !whole[1] {
            head_rows.clone_from(&embedding_rows);
            if let (Some(rows), Some(head)) = (&mut head_rows, &head) {
                rows.add(head).map_err(failed)?;
            }
        }
        if head_rows.is_some() && base.block.head_bias {
            return Err(failed("trained rows of a head with a bias are not supported; PEFT drops the bias".to_owned()));
        }
        Ok(TopAdditions { embedding, head, embedding_rows, head_rows, head_bias })
    }
}

/// The tokens whose rows are trained, of embedding and head.
fn token_indices(config: &AdapterConfig, base: &DecoderConfig, rows: usize) -> Result<[Vec<u32>; 2], String> {
    let mut tokens = [vec![], vec![]];
    match &config.trainable_token_indices {
        None => {}
        Some(TokenIndices::Embedding(list)) => tokens[0].clone_from(list),
        Some(TokenIndices::ByModule(lists)) => {
            for (name, list) in lists {
                let meant = |top: &Top| {
                    let path = top.path(base);
                    path == *name || path.ends_with(&format!(".{name}"))
                };
                let Some(top) = Top::BOTH.into_iter().find(meant) else {
                    let expected = Top::BOTH.map(|top| top.path(base)).join(" or ");
                    return Err(format!("`trainable_token_indices` names `{name}`, expected {expected}"));
                };
                tokens[top as usize].clone_from(list);
            }
        }
    }
    for list in &tokens {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if let Some(token) = sorted.last().filter(|&&token| token as usize >= rows) {
            return Err(format!("`trainable_token_indices` names token {token}, expected at most {}", rows - 1));
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("`trainable_token_indices` names token {} twice", pair[0]));
        }
    }
    Ok(tokens)
}
