//! Low-rank additions of several adapters to the rows of one product.

use super::{
    Device, DeviceBuffer, DeviceMatrix, Float, View,
    driver::{Shape, args},
    ops::Done,
};
use crate::KernelError;

/// Rows of a tile: all are of one adapter.
const TILE: usize = 8;

/// Columns that a warp takes, and warps of a block.
const COLUMNS: usize = 16;
const WARPS: usize = 16;

/// Most parts of an addition.
const PARTS: usize = 3;

/// A part of an adapter's addition: the columns of the product from `first_column` on gain
/// `scale · u[first_rank ..] · Bᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct LoraRows<'a> {
    /// `[columns, rank]`
    pub b: &'a DeviceMatrix,
    /// See above.
    pub first_rank: usize,
    /// See above.
    pub first_column: usize,
    /// See above.
    pub scale: f32,
}

/// The additions of several adapters to one product, `u = x · Aᵀ` first; what it is made of must outlive it.
#[derive(Debug)]
pub struct LoraTable {
    /// As `LoraOf` of `kernels/lora.cuh`.
    words: DeviceBuffer,
    adapters: usize,
    /// Of all adapters the most, to whole steps.
    ranks: usize,
    /// Inputs and columns of the product.
    size: [usize; 2],
}

impl LoraTable {
    /// The additions of adapters, of those that have none `None`; the product has so many inputs and columns. `None` if the
    /// kernels do not serve them: for factors of 16 bits, ranks that are multiples of 8, and parts of whole groups of
    /// columns.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(
        device: &Device,
        adapters: &[Option<(&DeviceMatrix, Vec<LoraRows<'_>>)>],
        size: [usize; 2],
    ) -> Result<Option<Self>, KernelError> {
        let [inputs, columns] = size;
        let (mut words, mut most) = (vec![], 0);
        for adapter in adapters {
            let from = words.len();
            if let Some((a, parts)) = adapter {
                let Some(place) = a.place() else { return Ok(None) };
                let fits = a.cols() == inputs && parts.len() <= PARTS && inputs.is_multiple_of(32);
                if !fits || !a.rows().is_multiple_of(8) {
                    return Ok(None);
                }
                words.extend([place, a.rows() as u64 | (parts.len() as u64) << 32]);
                for LoraRows { b, first_rank, first_column, scale } in parts {
                    let (rank, wide) = (b.cols(), b.rows());
                    let aligned = [*first_rank, rank].iter().all(|n| n.is_multiple_of(8))
                        && [*first_column, wide].iter().all(|n| n.is_multiple_of(COLUMNS));
                    let inside = first_rank + rank <= a.rows() && first_column + wide <= columns;
                    let (Some(place), true, true) = (b.place(), aligned, inside) else { return Ok(None) };
                    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
                    words.extend([place, pair(*first_rank, rank), pair(*first_column, wide)]);
                    words.push(u64::from(scale.to_bits()));
                }
                most = most.max(a.rows());
            }
            words.resize(from + 2 + 4 * PARTS, 0);
        }
        let words = device.bytes(&words)?;
        Ok(Some(Self { words, adapters: adapters.len(), ranks: most, size }))
    }
}

impl Device {
    /// `y += scale · (x · Aᵀ) · Bᵀ` with the adapter of each tile of eight rows, `owners` (32 bits a tile; -1 = none); `u` is
    /// rounded to the type of `x`.
    ///
    /// # Errors
    /// If there is no memory for `u`, or the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn add_loras(&self, table: &LoraTable, owners: &DeviceBuffer, x: View<'_>, y: View<'_>) -> Done {
        let tiles = x.rows.div_ceil(TILE);
        let aligned = x.pitch.is_multiple_of(8) && x.ptr.is_multiple_of(16);
        assert!(x.rows.is_multiple_of(TILE) && y.rows == x.rows && owners.bytes() >= 4 * tiles, "tiles of rows");
        assert!([x.cols, y.cols] == table.size && aligned, "inputs and columns of the product");
        assert!(x.float == y.float && x.float != Float::F32 && table.adapters > 0, "rows of 16 bits");
        if table.ranks == 0 {
            return Ok(());
        }
        let u = self.alloc(x.rows * table.ranks, x.float)?;
        let u = u.view(0, x.rows, table.ranks, table.ranks);
        let [down, up] = match x.float {
            Float::F16 => ["lora_down_f16", "lora_up_f16"],
            _ => ["lora_down_bf16", "lora_up_bf16"],
        };
        let shape = |groups| Shape { grid: (tiles, groups), block: (32 * WARPS as u32, 1), shared: 0 };
        let (words, owners) = (table.words.ptr(), owners.ptr());
        self.launch(down, shape(table.ranks.div_ceil(16)), &args![words, owners, [x], x.cols, [u]])?;
        self.launch(up, shape(y.cols.div_ceil(COLUMNS * WARPS)), &args![words, owners, [u], [y]])
    }
}
