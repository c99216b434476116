//! A fast generator for resampling, seeded from a named stream.

use harness_core::StreamRng;

/// xoshiro256++ (Blackman and Vigna 2019), its 256 bits of state drawn from a [`StreamRng`]; about a nanosecond a draw.
#[derive(Clone, Debug)]
pub(crate) struct FastRng {
    state: [u64; 4],
    /// The unused upper half of the last 64 bits.
    spare: Option<u32>,
}

impl FastRng {
    /// A generator whose draws are fixed by the next four draws of the stream.
    pub(crate) fn from_stream(stream: &mut StreamRng) -> Self {
        let mut state: [u64; 4] = std::array::from_fn(|_| stream.next_u64());
        if state == [0; 4] {
            state[0] = 1;
        }
        Self { state, spare: None }
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 32 random bits: the lower, then the upper half of 64.
    #[inline]
    fn next_u32(&mut self) -> u32 {
        if let Some(upper) = self.spare.take() {
            return upper;
        }
        let bits = self.next_u64();
        self.spare = Some((bits >> 32) as u32);
        bits as u32
    }

    /// Uniform on `0..n` without bias (Lemire 2019); 0 for `n` = 0.
    #[inline]
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            let low = product as u32;
            if low >= n || low >= n.wrapping_neg().checked_rem(n).unwrap_or(0) {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use harness_core::Seed;

    use super::*;

    #[test]
    fn draws_are_even() {
        let mut rng = FastRng::from_stream(&mut Seed(3).stream("test", 0));
        let mut counts = [0usize; 5];
        for _ in 0..50_000 {
            counts[rng.below(5) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }
}
