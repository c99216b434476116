//! Functions compiled once for each instruction set.

/// Defines a function whose plain arithmetic the compiler vectorises for AVX-512, AVX2 and the target's baseline; the
/// processor's best is picked at run time. Nothing is contracted into fused operations, so all agree bit by bit.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "inner loops take everything at once")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "inner loops take everything at once")]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "inner loops take everything at once")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "inner loops take everything at once")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match harness_kernels::cpu::isa::isa() {
                    // SAFETY: `isa` says that the processor has these instructions.
                    harness_kernels::cpu::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    harness_kernels::cpu::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    harness_kernels::cpu::isa::Isa::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use multiversion;

/// Lanes of the fixed summation order.
const LANES: usize = 16;

/// Σ f(a, b) over two runs of equal length, element i in lane i mod 16, lanes added in a fixed tree.
#[inline(always)]
pub(super) fn lane_sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(x, y);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *lane += f(x, y);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
