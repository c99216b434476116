//! Which modules an adapter changes, with which rank and scale, as PEFT 0.21 decides it.

use std::collections::BTreeMap;

use super::{
    AdapterConfig, TargetModules,
    patterns::{Compiled, Expression},
    places::Top,
};
use crate::{DecoderConfig, LinearPlace, Projection};

/// Rank and scale of one adapted module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetRank {
    /// Rank.
    pub rank: usize,
    /// Factor of the addition.
    pub scale: f32,
}

/// The names, in any family, by which PEFT knows an embedding or a head that may be tied.
const TIED_BY_NAME: [&str; 2] = ["embed_tokens", "lm_head"];

/// Whether one of these paths of modules ends in this name.
fn is_among(paths: &[String], name: &str) -> bool {
    paths.iter().any(|path| path.rsplit('.').next() == Some(name))
}

/// Whether PEFT ties the copies of these modules over a base that ties embedding and head, if asked to.
pub(super) fn may_be_tied(modules_to_save: &[String]) -> bool {
    TIED_BY_NAME.iter().any(|name| is_among(modules_to_save, name))
}

/// The ranks and scales that a configuration gives to modules.
pub(super) struct Ranks<'a> {
    config: &'a AdapterConfig,
    ranks: Compiled<'a, usize>,
    alphas: Compiled<'a, f64>,
}

impl Ranks<'_> {
    /// Rank and scale of the module at this path.
    ///
    /// # Errors
    /// A reason, if an expression cannot be matched or the scale is beyond f32.
    pub(super) fn of(&self, path: &str) -> Result<TargetRank, String> {
        let rank = self.ranks.find(path)?.copied().unwrap_or(self.config.r);
        let alpha = self.alphas.find(path)?.copied().unwrap_or(self.config.lora_alpha);
        let divisor = if self.config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / divisor) as f32;
        if scale.is_finite() {
            return Ok(TargetRank { rank, scale });
        }
        Err(format!("`lora_alpha` of {path} is {alpha:?}, expected a number in the range of f32"))
    }
}

impl AdapterConfig {
    /// The ranks and scales of modules.
    ///
    /// # Errors
    /// A reason, if a pattern is no regular expression.
    pub(super) fn ranks(&self) -> Result<Ranks<'_>, String> {
        let ranks = self.rank_pattern.compile("rank_pattern")?;
        Ok(Ranks { config: self, ranks, alphas: self.alpha_pattern.compile("alpha_pattern")? })
    }

    /// The adapted linears of every block.
    ///
    /// # Errors
    /// A reason, if a pattern is no regular expression, keys exclude each other, or nothing is targeted.
    pub fn targets(&self, base: &DecoderConfig) -> Result<Vec<BTreeMap<Projection, TargetRank>>, String> {
        let selection = Selection::new(self)?;
        let mut layers = Vec::with_capacity(base.num_layers);
        for layer in 0..base.num_layers {
            let mut targets = BTreeMap::new();
            for LinearPlace { projection, path, .. } in base.linears(layer) {
                targets.extend(selection.of(&path)?.map(|target| (projection, target)));
            }
            for (projection, path) in self.parameters(base, layer) {
                targets.insert(projection, selection.ranks.of(&path)?);
            }
            layers.push(targets);
        }
        let others = self.target_parameters.as_ref().is_some_and(|names| !names.is_empty())
            || self.trainable_token_indices.is_some()
            || self.top_targets(base)?.iter().any(Option::is_some);
        if layers.iter().all(BTreeMap::is_empty) && !others {
            let wanted = serde_json::to_string(&self.target_modules).unwrap_or_default();
            let mut modules: Vec<String> = vec![];
            for place in (0..base.num_layers).flat_map(|layer| base.linears(layer)) {
                if !modules.contains(&place.module) {
                    modules.push(place.module);
                }
            }
            return Err(format!(
                "`target_modules` {wanted} match no linear of this base; its linears are {}",
                modules.join(", ")
            ));
        }
        Ok(layers)
    }

    /// The matrices of a block that `target_parameters` names, experts apart, with their paths. PEFT changes them as it
    /// changes linears.
    fn parameters(&self, base: &DecoderConfig, layer: usize) -> Vec<(Projection, String)> {
        let wanted = self.target_parameters.as_deref().unwrap_or_default();
        let places = base.linears(layer).into_iter().chain(base.router(layer));
        let paths = places.map(|place| (place.projection, format!("{}.weight", place.path)));
        paths
            .filter(|(_, path)| wanted.iter().any(|name| path == name || path.ends_with(&format!(".{name}"))))
            .collect()
    }

    /// Rank and scale of embedding and head, where they are adapted.
    ///
    /// # Errors
    /// A reason, if a pattern is no regular expression.
    pub(super) fn top_targets(&self, base: &DecoderConfig) -> Result<[Option<TargetRank>; 2], String> {
        let selection = Selection::new(self)?;
        let [embedding, head] = Top::BOTH.map(|top| match selection.wanted {
            Matcher::All => Ok(None),
            _ => selection.of(&top.path(base)),
        });
        let (embedding, head) = (embedding?, head?);
        // Over a base that ties them PEFT ties the additions as well, if asked to and if it knows one by its name.
        let mut known = false;
        for name in TIED_BY_NAME {
            known |= match &self.target_modules {
                Some(TargetModules::Names(names)) => is_among(names, name),
                _ => selection.wanted.matches(name)? != Match::No,
            };
        }
        let tied = base.tie_word_embeddings && self.ensure_weight_tying && known;
        Ok(if tied { [embedding.or(head), head.or(embedding)] } else { [embedding, head] })
    }
}

/// Which modules are adapted, and how.
struct Selection<'a> {
    wanted: Matcher,
    excluded: Option<Matcher>,
    chosen: ChosenLayers<'a>,
    ranks: Ranks<'a>,
}

impl<'a> Selection<'a> {
    fn new(config: &'a AdapterConfig) -> Result<Self, String> {
        let default = TargetModules::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]);
        let wanted = Matcher::new("target_modules", config.target_modules.as_ref().unwrap_or(&default))?;
        let excluded = config.exclude_modules.as_ref().map(|modules| match modules {
            // `all-linear` is no shorthand here.
            TargetModules::Pattern(pattern) => Expression::whole("exclude_modules", pattern).map(Matcher::whole),
            TargetModules::Names(names) => Ok(Matcher::Names(names.clone())),
        });
        let chosen = ChosenLayers::new(config, &wanted)?;
        Ok(Self { wanted, excluded: excluded.transpose()?, chosen, ranks: config.ranks()? })
    }

    /// Rank and scale of the module at this path, if it is adapted.
    fn of(&self, path: &str) -> Result<Option<TargetRank>, String> {
        let out = self.excluded.as_ref().map_or(Ok(Match::No), |excluded| excluded.matches(path))?;
        let targeted = match self.wanted.matches(path)? {
            _ if out != Match::No => false,
            Match::No => false,
            Match::Whole => true,
            Match::End => self.chosen.contain(path)?,
        };
        targeted.then(|| self.ranks.of(path)).transpose()
    }
}

/// How a module's path is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    No,
    /// By all of it, or by an expression.
    Whole,
    /// By its last segments.
    End,
}

/// Decides whether a module's path is meant.
enum Matcher {
    All,
    Whole(Box<Expression>),
    Names(Vec<String>),
}

impl Matcher {
    fn new(key: &str, modules: &TargetModules) -> Result<Self, String> {
        Ok(match modules {
            TargetModules::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear") => Self::All,
            TargetModules::Pattern(pattern) => Self::whole(Expression::whole(key, pattern)?),
            TargetModules::Names(names) => Self::Names(names.clone()),
        })
    }

    fn whole(expression: Expression) -> Self {
        Self::Whole(Box::new(expression))
    }

    fn matches(&self, path: &str) -> Result<Match, String> {
        Ok(match self {
            Self::All => Match::Whole,
            Self::Whole(expression) if expression.matches(path)? => Match::Whole,
            Self::Whole(_) => Match::No,
            Self::Names(names) if names.iter().any(|name| name == path) => Match::Whole,
            Self::Names(names) => {
                let ends = |name: &String| path.strip_suffix(name.as_str()).is_some_and(|before| before.ends_with('.'));
                if names.iter().any(ends) { Match::End } else { Match::No }
            }
        })
    }
}

/// The layers in which modules that are meant by their last segments are adapted.
struct ChosenLayers<'a> {
    layers: Option<&'a [usize]>,
    /// Where the number of a layer stands in a path: its group `idx`.
    patterns: Vec<Expression>,
}

impl<'a> ChosenLayers<'a> {
    fn new(config: &'a AdapterConfig, wanted: &Matcher) -> Result<Self, String> {
        let named = matches!(wanted, Matcher::Names(_));
        let (layers, patterns) = (config.layers_to_transform.as_deref(), config.layers_pattern.as_deref());
        for (key, given) in [("layers_to_transform", layers.is_some()), ("layers_pattern", patterns.is_some())] {
            if given && !named {
                return Err(format!(
                    "`{key}` cannot be used where `target_modules` is an expression; give a list of names"
                ));
            }
        }
        let patterns = patterns.unwrap_or_default();
        if !patterns.is_empty() && layers.is_none() {
            return Err(
                "`layers_pattern` is given and `layers_to_transform` is not; expected both or neither".to_owned()
            );
        }
        let expression = |pattern: &String| {
            Expression::new("layers_pattern", pattern, &format!(r"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."))
        };
        let patterns = match patterns {
            [] => vec![Expression::new("layers_pattern", "", r".*?\.[^.]*\.(?P<idx>\d+)\.")?],
            patterns => patterns.iter().map(expression).collect::<Result<_, String>>()?,
        };
        Ok(Self { layers: layers.filter(|layers| !layers.is_empty()), patterns })
    }

    fn contain(&self, path: &str) -> Result<bool, String> {
        let Some(layers) = self.layers else { return Ok(true) };
        for pattern in &self.patterns {
            if let Some(index) = pattern.group(path, "idx")? {
                return Ok(index.and_then(|index| index.parse().ok()).is_some_and(|index| layers.contains(&index)));
            }
        }
        Ok(false)
    }
}
