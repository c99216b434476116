//! Which modules an adapter changes, with which rank and scale, as PEFT decides it.

use std::collections::BTreeMap;

use fancy_regex::Regex;

use super::{AdapterConfig, Projection, TargetModules};
use crate::DecoderConfig;

/// Rank and scale of one adapted module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetRank {
    /// Rank.
    pub rank: usize,
    /// Factor of the addition.
    pub scale: f32,
}

impl AdapterConfig {
    /// The adapted linears of every block.
    ///
    /// # Errors
    /// A reason, if a pattern is no regular expression or nothing is targeted.
    pub fn targets(&self, base: &DecoderConfig) -> Result<Vec<BTreeMap<Projection, TargetRank>>, String> {
        let default = TargetModules::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]);
        let wanted = Matcher::new("target_modules", self.target_modules.as_ref().unwrap_or(&default))?;
        let excluded = self.exclude_modules.as_ref().map(|modules| Matcher::new("exclude_modules", modules));
        let excluded = excluded.transpose()?;
        let ranks = Patterns::new("rank_pattern", &self.rank_pattern)?;
        let alphas = Patterns::new("alpha_pattern", &self.alpha_pattern)?;
        let by_layer = matches!(wanted, Matcher::Names(_));
        let mut layers = Vec::with_capacity(base.num_layers);
        for layer in 0..base.num_layers {
            let chosen = self.layers_to_transform.as_ref().is_none_or(|layers| !by_layer || layers.contains(&layer));
            let mut targets = BTreeMap::new();
            for projection in Projection::ALL {
                let path = projection.path(layer);
                let out = excluded.as_ref().is_some_and(|excluded| excluded.matches(&path));
                if chosen && !out && wanted.matches(&path) {
                    let rank = ranks.find(&path).copied().unwrap_or(self.r);
                    let alpha = alphas.find(&path).copied().unwrap_or(self.lora_alpha);
                    let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
                    targets.insert(projection, TargetRank { rank, scale: (alpha / divisor) as f32 });
                }
            }
            layers.push(targets);
        }
        if layers.iter().all(BTreeMap::is_empty) {
            let wanted = serde_json::to_string(&self.target_modules).unwrap_or_default();
            return Err(format!(
                "`target_modules` {wanted} match no linear of this base; its linears are {}",
                Projection::ALL.map(Projection::module).join(", ")
            ));
        }
        Ok(layers)
    }
}

/// Decides whether a module's path is meant.
enum Matcher {
    All,
    Whole(Box<Regex>),
    Names(Vec<String>),
}

impl Matcher {
    fn new(key: &str, modules: &TargetModules) -> Result<Self, String> {
        Ok(match modules {
            TargetModules::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear") => Self::All,
            TargetModules::Pattern(pattern) => Self::Whole(Box::new(regex(key, &format!(r"\A(?:{pattern})\z"))?)),
            TargetModules::Names(names) => Self::Names(names.clone()),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Whole(regex) => regex.is_match(path).unwrap_or(false),
            Self::Names(names) => names.iter().any(|name| {
                path.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
        }
    }
}

/// Values by patterns that the end of a module's path matches, beginning at a segment; the first pattern counts.
struct Patterns<'a, T>(Vec<(Regex, &'a T)>);

impl<'a, T> Patterns<'a, T> {
    fn new(key: &str, patterns: &'a BTreeMap<String, T>) -> Result<Self, String> {
        let compile = |(pattern, value): (&String, &'a T)| {
            Ok((regex(key, &format!(r"\A(?:.*\.)?(?:{})\z", pattern.trim_start_matches('^')))?, value))
        };
        patterns.iter().map(compile).collect::<Result<_, String>>().map(Self)
    }

    fn find(&self, path: &str) -> Option<&'a T> {
        self.0.iter().find(|(regex, _)| regex.is_match(path).unwrap_or(false)).map(|&(_, value)| value)
    }
}

fn regex(key: &str, pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| format!("`{key}`: {pattern:?} is not a regular expression: {error}"))
}
