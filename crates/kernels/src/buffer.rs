//! Elements in memory, owned or mapped from a file.

use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc};

use half::{bf16, f16};

use crate::Map;

/// A type whose every bit pattern is a value, so that bytes of a file can be seen as elements.
///
/// # Safety
/// Whoever implements it promises that.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// Reads one element from little-endian bytes, as many as its size.
    fn from_le(bytes: &[u8]) -> Self;
}

// SAFETY: any bits are a number.
unsafe impl Element for f32 {
    fn from_le(b: &[u8]) -> Self {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

// SAFETY: any bits are a number.
unsafe impl Element for u8 {
    fn from_le(b: &[u8]) -> Self {
        b[0]
    }
}

// SAFETY: any bits are a number.
unsafe impl Element for bf16 {
    fn from_le(b: &[u8]) -> Self {
        bf16::from_le_bytes([b[0], b[1]])
    }
}

// SAFETY: any bits are a number.
unsafe impl Element for f16 {
    fn from_le(b: &[u8]) -> Self {
        f16::from_le_bytes([b[0], b[1]])
    }
}

/// A shared, immutable run of elements: a vector, or a part of a memory-mapped file. Dereferences to a slice.
#[derive(Clone)]
pub struct Buffer<T>(Inner<T>);

#[derive(Clone)]
enum Inner<T> {
    Owned(Arc<Vec<T>>),
    Mapped { map: Arc<Map>, offset: usize, len: usize, element: PhantomData<T> },
}

/// Elements stored little-endian in `map` from byte `offset`; copied where the machine's alignment or byte order
/// demands it. `None` if the map is too short.
pub fn mapped<T: Element>(map: &Arc<Map>, offset: usize, len: usize) -> Option<Buffer<T>> {
    let size = size_of::<T>();
    let bytes = map.get(offset..offset.checked_add(len.checked_mul(size)?)?)?;
    let aligned = (bytes.as_ptr() as usize).is_multiple_of(align_of::<T>());
    if cfg!(target_endian = "little") && aligned {
        Some(Buffer(Inner::Mapped { map: map.clone(), offset, len, element: PhantomData }))
    } else {
        Some(bytes.chunks_exact(size).map(T::from_le).collect::<Vec<_>>().into())
    }
}

impl<T: Copy> Buffer<T> {
    /// A run of the elements: shared if they are mapped, else copied.
    ///
    /// # Panics
    /// If it reaches beyond the last.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "elements {range:?} of {}", self.len());
        match &self.0 {
            Inner::Owned(data) => data[range].to_vec().into(),
            Inner::Mapped { map, offset, .. } => Self(Inner::Mapped {
                map: map.clone(),
                offset: offset + range.start * size_of::<T>(),
                len: range.len(),
                element: PhantomData,
            }),
        }
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(data: Vec<T>) -> Self {
        Self(Inner::Owned(Arc::new(data)))
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Inner::Owned(data) => data,
            Inner::Mapped { map, offset, len, .. } => {
                // SAFETY: `mapped`, the maker of this variant (`part` makes smaller ones of it), checked that `len` elements lie inside the map
                // from `offset` on and that the address is aligned for `T`; it is bounded by `Element`, whose types
                // admit every bit pattern. The map lives as long as `self` and is never written through.
                unsafe { std::slice::from_raw_parts(map.as_ptr().add(*offset).cast::<T>(), *len) }
            }
        }
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.0, Inner::Owned(_)) { "owned" } else { "mapped" };
        write!(f, "Buffer({} elements, {kind})", self.len())
    }
}
