//! CPython's `random.Random`, bit for bit: MT19937 (Matsumoto and Nishimura 1998) with CPython's seeding and the
//! draws that lm-eval, FastChat and alpaca_eval make. Few-shot examples are the same only if the draws are.

use sha2::{Digest as _, Sha512};

const N: usize = 624;
const M: usize = 397;

/// A generator in the state CPython's would have after the same calls.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl std::fmt::Debug for PythonRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PythonRandom").field("next", &self.next).finish_non_exhaustive()
    }
}

impl PythonRandom {
    /// `random.Random(seed)` for an integer.
    pub fn from_int(seed: i64) -> Self {
        let magnitude = seed.unsigned_abs();
        let mut key = vec![magnitude as u32];
        if magnitude >> 32 != 0 {
            key.push((magnitude >> 32) as u32);
        }
        Self::from_key(&key)
    }

    /// `random.Random(seed)` for a string: the UTF-8 bytes followed by their SHA-512 as one big-endian integer.
    pub fn from_text(seed: &str) -> Self {
        let mut bytes = seed.as_bytes().to_vec();
        bytes.extend_from_slice(&Sha512::digest(seed.as_bytes()));
        let mut key: Vec<u32> =
            bytes.rchunks(4).map(|chunk| chunk.iter().fold(0, |word, &byte| word << 8 | u32::from(byte))).collect();
        while key.len() > 1 && key.last() == Some(&0) {
            key.pop();
        }
        Self::from_key(&key)
    }

    /// The generator seeded by one number, as `std::mt19937` of C++ is.
    pub fn mt19937(seed: u32) -> Self {
        let mut state = [0u32; N];
        state[0] = seed;
        for i in 1..N {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = 1_812_433_253u32.wrapping_mul(previous).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// `init_by_array` of the reference implementation.
    fn from_key(key: &[u32]) -> Self {
        let mut state = Self::mt19937(19_650_218).state;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ previous.wrapping_mul(1_664_525)).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ previous.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, next: N }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next >= N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `getrandbits(k)` for k up to 64.
    pub fn getrandbits(&mut self, k: u32) -> u64 {
        assert!((1..=64).contains(&k), "between 1 and 64 bits");
        if k <= 32 {
            return u64::from(self.next_u32() >> (32 - k));
        }
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32() >> (64 - k)) << 32
    }

    /// `random()`: uniform on [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        let a = f64::from(self.next_u32() >> 5);
        let b = f64::from(self.next_u32() >> 6);
        (a * 67_108_864.0 + b) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `_randbelow(n)`: uniform on `0..n` by rejection.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "cannot draw from an empty range");
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let draw = self.getrandbits(bits) as usize;
            if draw < n {
                return draw;
            }
        }
    }

    /// Positions chosen by `sample(range(n), k)`, in order of choice.
    ///
    /// # Panics
    /// If `k` is larger than `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "sample of {k} from a population of {n}");
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow((((k * 3) as f64).ln() / 4f64.ln()).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let last = pool[n - i - 1];
                    std::mem::replace(&mut pool[j], last)
                })
                .collect()
        } else {
            let mut chosen = std::collections::HashSet::with_capacity(k);
            (0..k)
                .map(|_| {
                    loop {
                        let j = self.below(n);
                        if chosen.insert(j) {
                            return j;
                        }
                    }
                })
                .collect()
        }
    }

    /// Positions chosen by `choices(range(n), k=k)`: with replacement.
    pub fn choices(&mut self, n: usize, k: usize) -> Vec<usize> {
        (0..k).map(|_| (self.random() * n as f64).floor() as usize).collect()
    }

    /// `shuffle(x)` in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_zero_gives_the_known_first_draws() {
        let mut rng = PythonRandom::from_int(0);
        let draws: Vec<f64> = (0..3).map(|_| rng.random()).collect();
        assert_eq!(draws, [0.844_421_851_525_048_1, 0.757_954_402_940_302_5, 0.420_571_580_830_845]);
    }

    #[test]
    fn one_number_seeds_as_in_c_plus_plus() {
        // The standard asks for this value of std::mt19937's default seed.
        let mut random = PythonRandom::mt19937(5489);
        (0..9_999).for_each(|_| {
            random.next_u32();
        });
        assert_eq!(random.next_u32(), 4_123_659_995);
    }

    #[test]
    fn sample_never_repeats() {
        let mut rng = PythonRandom::from_text("few-shot");
        for (n, k) in [(10, 10), (21, 5), (7_473, 5), (300, 40)] {
            let mut drawn = rng.sample(n, k);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), k);
        }
    }
}
