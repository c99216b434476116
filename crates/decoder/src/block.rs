//! What a decoder block computes, as data. The default is Llama's block.

use harness_kernels::cpu::{activation::Activation, norm::NormKind};

use crate::Rope;

/// Norms of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Norm {
    /// What rows are divided by.
    pub kind: NormKind,
    /// What they are multiplied by.
    pub weight: NormWeight,
    /// Whether something is added.
    pub bias: bool,
}

impl Norm {
    /// An RMS norm with a weight.
    pub const RMS: Self = Self { kind: NormKind::Rms, weight: NormWeight::Stored, bias: false };
    /// A layer norm with a weight.
    pub const LAYER: Self = Self { kind: NormKind::Layer, ..Self::RMS };
    /// A layer norm with a weight and a bias.
    pub const LAYER_WITH_BIAS: Self = Self { bias: true, ..Self::LAYER };
}

/// What a normed row is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormWeight {
    /// The stored weight.
    #[default]
    Stored,
    /// 1 more than the stored weight. Weights in memory have it added.
    OneMore,
    /// Nothing.
    None,
}

/// Where the norms of a block stand; `a` is the attention, `f` the feed-forward block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// `x += a(norm(x)); x += f(norm(x))`.
    #[default]
    Pre,
    /// `x += norm(a(x)); x += norm(f(x))`.
    Post,
    /// `x += norm(a(norm(x))); x += norm(f(norm(x)))`.
    Sandwich,
    /// `n = norm(x); x += a(n) + f(n)`.
    Parallel,
    /// `x += a(norm(x)) + f(norm'(x))`.
    ParallelTwo,
    /// `x = norm(x + a(x)); x = norm(x + f(x))`.
    AfterSum,
    /// `x = norm(x); x += a(x); x = norm(x); x += f(x)`.
    NormedResidual,
}

/// What one norm of queries and keys spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// A head; all heads share the weight.
    Head,
    /// A head; each has a weight of its own.
    EachHead,
    /// All heads of a row.
    Whole,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkNorm {
    /// What one norm spans.
    pub span: Span,
    /// The norm.
    pub norm: Norm,
    /// Whether it follows the rotation, on layers that have one, and does not precede it.
    pub after_rotation: bool,
}

impl QkNorm {
    /// An RMS norm of every head before the rotation, as in Qwen 3.
    pub const HEAD: Self = Self { span: Span::Head, norm: Norm::RMS, after_rotation: false };
}

/// How a decoder knows where a token stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated, in halves against each other.
    #[default]
    Halves,
    /// Queries and keys are rotated, each element against its neighbour.
    Pairs,
    /// A table is added to the embedding; position 0 is in row `offset`.
    Learned {
        /// Rows before that of position 0.
        offset: usize,
    },
    /// ALiBi: scores fall with the distance, by these slopes of the query heads.
    Alibi {
        /// What a score loses for every position.
        slopes: Vec<f32>,
        /// The product of slope and position is rounded to bf16, and multiplied by this, as in Falcon.
        rounded: Option<f32>,
    },
}

/// The rotation of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// That of the configuration.
    Main,
    /// The second one, of layers with a window.
    Local,
    /// None.
    None,
}

/// A factor on queries that grows with their position p: `1 + beta · ln(1 + floor((p + ahead) / length))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryScale {
    /// Factor of the logarithm.
    pub beta: f64,
    /// Positions without growth.
    pub length: usize,
    /// Positions that are counted ahead.
    pub ahead: usize,
    /// Whether only layers without rotation have it.
    pub unrotated: bool,
}

impl QueryScale {
    /// The factor of a position.
    pub fn at(&self, position: u32) -> f32 {
        let turns = ((position as usize + self.ahead) / self.length) as f64;
        (1.0 + self.beta * turns.ln_1p()) as f32
    }
}

/// Multi-head latent attention (DeepSeek-AI 2024): queries, keys and values pass a narrow layer. A head's keys are `nope`
/// elements of its own and `rope` rotated ones that all heads share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Width of the narrow layer of queries; `None` = there is none.
    pub q_rank: Option<usize>,
    /// Width of the narrow layer of keys and values.
    pub kv_rank: usize,
    /// Elements of a head that are not rotated.
    pub nope: usize,
    /// Elements of a head that are.
    pub rope: usize,
    /// Elements of a value.
    pub value: usize,
    /// Whether the projections into the narrow layers have biases.
    pub bias: bool,
    /// Added to the mean square in the norms of the narrow layers.
    pub eps: f32,
}

/// Short convolutions in place of the attention of some layers (LFM2).
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    /// Positions that a row sees, itself included.
    pub taps: usize,
    /// Whether its linears and the convolution itself have biases.
    pub bias: bool,
    /// The layers that have one.
    pub layers: Vec<bool>,
}

/// What a decoder block computes, apart from its sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// The norms.
    pub norm: Norm,
    /// Where they stand.
    pub placement: Placement,
    /// Whether there is a norm after the last block.
    pub final_norm: bool,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// The activation of the feed-forward block.
    pub activation: Activation,
    /// Whether the activation stands on a gate beside the up projection, or on the up projection itself.
    pub gated: bool,
    /// Whether the feed-forward block's projections have biases.
    pub mlp_bias: bool,
    /// Whether the output head has a bias.
    pub head_bias: bool,
    /// How positions are known.
    pub positions: Positions,
    /// Elements of a head that are rotated; `None` = all.
    pub rotary_dims: Option<usize>,
    /// The second rotation.
    pub local_rope: Option<Rope>,
    /// The rotation of every layer; empty = the main one on all.
    pub rotations: Vec<Rotation>,
    /// Length of the chunks beyond which the rotated layers do not see.
    pub chunk: Option<usize>,
    /// Factor on the scores; `None` = `1 / sqrt(head_dim)`.
    pub score_scale: Option<f64>,
    /// Whether the scores of layer l are divided by l + 1 as well.
    pub scores_by_layer: bool,
    /// Soft limit of the scores.
    pub score_cap: Option<f32>,
    /// Whether every head has a score that takes part in the softmax without a value.
    pub sinks: bool,
    /// Limit of the absolute values of queries, keys and values.
    pub clip_qkv: Option<f32>,
    /// Factor on queries by position.
    pub query_scale: Option<QueryScale>,
    /// Latent attention.
    pub latent: Option<Latent>,
    /// Short convolutions.
    pub convolution: Option<Convolution>,
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// Whether the embedding passes a norm.
    pub embedding_norm: bool,
    /// Width of the embedding and of what the head sees, where projections lead to and from the hidden size.
    pub embedding_width: Option<usize>,
    /// Factor on what attention and feed-forward block add.
    pub residual_scale: f32,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// Soft limit of the logits.
    pub logit_cap: Option<f32>,
}

impl Default for BlockSpec {
    fn default() -> Self {
        Self {
            norm: Norm::default(),
            placement: Placement::Pre,
            final_norm: true,
            qk_norm: None,
            activation: Activation::Silu,
            gated: true,
            mlp_bias: false,
            head_bias: false,
            positions: Positions::Halves,
            rotary_dims: None,
            local_rope: None,
            rotations: vec![],
            chunk: None,
            score_scale: None,
            scores_by_layer: false,
            score_cap: None,
            sinks: false,
            clip_qkv: None,
            query_scale: None,
            latent: None,
            convolution: None,
            embedding_scale: 1.0,
            embedding_norm: false,
            embedding_width: None,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
        }
    }
}

impl BlockSpec {
    /// Llama's block, with norms of the heads of queries and keys as in Qwen 3 where wanted.
    pub fn with_head_norms(wanted: bool) -> Self {
        Self { qk_norm: wanted.then_some(QkNorm::HEAD), ..Self::default() }
    }

    /// What differs from Llama's block: the field, its value, and the feature in words. Names and forms are part of the keys
    /// of stored answers.
    pub(crate) fn differences(&self) -> Vec<(&'static str, String, &'static str)> {
        let plain = Self::default();
        let mut found = vec![];
        macro_rules! compare {
            ($($field:ident: $words:literal),* $(,)?) => {
                // Without `..`: whoever adds a field has to add it here.
                let Self { $($field),* } = self;
                $(if *$field != plain.$field {
                    found.push((stringify!($field), format!("{:?}", $field), $words));
                })*
            };
        }
        compare!(
            norm: "norms other than RMS norms",
            placement: "norms that do not stand before attention and feed-forward block",
            final_norm: "no norm after the last block",
            qk_norm: "norms of queries and keys",
            activation: "an activation other than SiLU",
            gated: "a feed-forward block without a gate",
            mlp_bias: "biases in the feed-forward block",
            head_bias: "a bias of the output head",
            positions: "positions other than rotated halves",
            rotary_dims: "a rotation of a part of the head",
            local_rope: "two rotary embeddings",
            rotations: "rotations that differ by layer",
            chunk: "attention in chunks",
            score_scale: "a factor on attention scores",
            scores_by_layer: "attention scores scaled by layer",
            score_cap: "a soft limit of attention scores",
            sinks: "attention sinks",
            clip_qkv: "limited queries, keys and values",
            query_scale: "queries scaled by position",
            latent: "latent attention",
            convolution: "short convolutions",
            embedding_scale: "a factor on the embedding",
            embedding_norm: "a norm of the embedding",
            embedding_width: "an embedding of another width",
            residual_scale: "a factor on residuals",
            logit_scale: "a factor on the logits",
            logit_cap: "a soft limit of the logits",
        );
        found
    }

    /// A feature, in words, that training does not have yet; it has norms of heads as in Qwen 3.
    pub fn beyond_llama(&self) -> Option<&'static str> {
        let plain = Self { qk_norm: self.qk_norm.filter(|norm| *norm != QkNorm::HEAD), ..self.clone() };
        plain.differences().first().map(|(.., words)| *words)
    }

    /// The rotation of a layer.
    pub fn rotation(&self, layer: usize) -> Rotation {
        match self.positions {
            Positions::Halves | Positions::Pairs => self.rotations.get(layer).copied().unwrap_or(Rotation::Main),
            Positions::Learned { .. } | Positions::Alibi { .. } => Rotation::None,
        }
    }

    /// Whether a layer has a short convolution in place of the attention.
    pub fn is_convolution(&self, layer: usize) -> bool {
        self.convolution.as_ref().is_some_and(|convolution| convolution.layers.get(layer) == Some(&true))
    }
}

/// How a router chooses experts and weighs them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Routing {
    /// A softmax over all experts; the likeliest are chosen, with the selection bias added where there is one.
    #[default]
    Softmax,
    /// The highest are chosen; a softmax over them.
    TopSoftmax,
    /// A sigmoid of each, chosen with the selection bias added.
    Sigmoid,
    /// The highest are chosen; the sigmoid of each multiplies the expert's input.
    SigmoidOnInput,
    /// Phi-MoE's sparse mixer: two experts, each weighed by a softmax over those near it.
    SparseMixer {
        /// How near: twice this, relative to the highest.
        jitter: f32,
    },
}

/// Groups of experts, of which the best are chosen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// How many are kept.
    pub kept: usize,
    /// How many of its best experts a group is judged by: their sum.
    pub best: usize,
}

/// A mixture of experts in place of the feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Feed-forward blocks of every layer.
    pub count: usize,
    /// How many of them a token passes.
    pub per_token: usize,
    /// As `per_token`, by layer where layers differ; else empty.
    pub per_token_by_layer: Vec<usize>,
    /// How they are chosen.
    pub routing: Routing,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalised: bool,
    /// Factor on the weights.
    pub factor: f32,
    /// Groups.
    pub groups: Option<Groups>,
    /// Whether a bias is added for the choice alone.
    pub selection_bias: bool,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// Whether the experts' projections have biases.
    pub expert_bias: bool,
    /// Width of an expert; `None` = that of the feed-forward block.
    pub width: Option<usize>,
    /// The layers that have the mixture; empty = all.
    pub sparse: Vec<bool>,
    /// Width of an expert that every token passes.
    pub shared: Option<usize>,
    /// Whether what the shared expert adds is multiplied by a sigmoid.
    pub shared_gate: bool,
    /// Whether the shared expert's projections have biases.
    pub shared_bias: bool,
}

impl Experts {
    /// Mixtral's: a softmax over all experts, renormalised over the chosen ones.
    pub fn new(count: usize, per_token: usize) -> Self {
        Self {
            count,
            per_token,
            per_token_by_layer: vec![],
            routing: Routing::Softmax,
            normalised: true,
            factor: 1.0,
            groups: None,
            selection_bias: false,
            router_bias: false,
            expert_bias: false,
            width: None,
            sparse: vec![],
            shared: None,
            shared_gate: false,
            shared_bias: false,
        }
    }

    /// Whether a layer has the mixture.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.sparse.get(layer).copied().unwrap_or(true)
    }

    /// How many experts a token passes in a layer.
    pub fn per_token(&self, layer: usize) -> usize {
        self.per_token_by_layer.get(layer).copied().unwrap_or(self.per_token)
    }

    /// Whether a router only renormalises and nothing else differs from Mixtral's mixture.
    pub fn is_plain(&self) -> bool {
        *self == Self::new(self.count, self.per_token)
    }
}
