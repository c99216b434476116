//! Where the rows of a pass stand, and how they are rotated there.

use std::sync::Arc;

use super::{Rotary, host::Host, piece::Piece};
use crate::Rotation;
use harness_kernels::cpu::rope::RopeTable;

/// Where the rows of a pass stand.
pub(super) struct Places {
    pub(super) positions: Vec<u32>,
    pub(super) main: Rotated,
    local: Option<Rotated>,
}

/// A rotary table and the rows' places in it.
pub(super) struct Rotated {
    pub(super) table: Arc<RopeTable>,
    pub(super) at: Vec<u32>,
}

impl Places {
    /// The places of all pieces' rows, and tables that reach to the last.
    pub(super) fn new(host: &Host<'_>, pieces: &[Piece<'_>]) -> Self {
        let range = |piece: &Piece<'_>| piece.position()..piece.position() + piece.tokens.len();
        let positions: Vec<u32> = pieces.iter().flat_map(|p| range(p).map(|position| position as u32)).collect();
        let end = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let rotated = |rotary: &Rotary| {
            let (table, long) = rotary.table(end);
            let shift = |piece: &Piece<'_>| if piece.length > rotary.longest_short() { long } else { 0 };
            let at = pieces.iter().flat_map(|p| range(p).map(move |position| (position + shift(p)) as u32)).collect();
            Rotated { table, at }
        };
        let local = host.model.local.as_ref().map(rotated);
        Self { main: rotated(&host.model.rotary), local, positions }
    }

    /// The table and places of a rotation.
    pub(super) fn of(&self, rotation: Rotation) -> Option<&Rotated> {
        match rotation {
            Rotation::Main => Some(&self.main),
            Rotation::Local => self.local.as_ref(),
            Rotation::None => None,
        }
    }
}
