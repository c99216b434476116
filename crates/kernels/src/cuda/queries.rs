//! Query rows and the cached keys that they see.

/// A run of rows of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KeySegment {
    /// First row.
    pub start: i32,
    /// Number of rows.
    pub len: i32,
}

/// A run of query rows and the keys it sees.
#[derive(Clone, Debug)]
pub struct Query {
    /// First row among the queries.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in the context.
    pub position: usize,
    /// The context in order.
    pub segments: Vec<KeySegment>,
}
