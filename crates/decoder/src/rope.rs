//! Rotary position embeddings, as data.

/// How rotary frequencies are stretched for contexts longer than those first trained on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK-aware scaling of the base once a sequence is longer than `original_max`.
    Dynamic {
        /// The factor.
        factor: f64,
        /// Length in tokens up to which nothing is scaled.
        original_max: usize,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// `original_max / low_freq_factor` is the wavelength above which frequencies are low.
        low_freq_factor: f64,
        /// `original_max / high_freq_factor` is the wavelength below which frequencies are high.
        high_freq_factor: f64,
        /// Length in tokens of the first training.
        original_max: usize,
    },
    /// GGUF's `rope_freqs.weight`: the divisor of every frequency, half as many as rotated elements.
    Divisors(Vec<f32>),
    /// YaRN (Peng et al. 2023): low frequencies divided by `factor`, high ones kept, a ramp between.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Length in tokens of the first training.
        original_max: usize,
        /// Turns within the first training from which on frequencies are kept.
        beta_fast: f64,
        /// Turns up to which frequencies are divided.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole numbers.
        truncate: bool,
        /// Factor on cosine and sine.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): every frequency has a divisor, another one for inputs that are longer than the first
    /// training.
    LongRope {
        /// Divisors of short inputs.
        short: Vec<f64>,
        /// Divisors of long ones.
        long: Vec<f64>,
        /// Longest short input in tokens.
        original_max: usize,
        /// Factor on cosine and sine of short inputs.
        attention_factor: f64,
        /// Factor on cosine and sine of long ones.
        long_attention_factor: f64,
    },
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies `theta^(-2i / d)` of d rotated elements.
    pub theta: f64,
    /// Stretching for long contexts.
    pub scaling: RopeScaling,
}
