//! The header of a GGUF file, versions 1 to 3, little-endian (ggml's docs/gguf.md).

use std::collections::{BTreeMap, btree_map::Entry};

use harness_kernels::gguf::BlockType;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the format's types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

/// What the header says of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorInfo {
    pub(super) blocks: BlockType,
    /// Outermost dimension first; the file has them the other way round.
    pub(super) shape: Vec<usize>,
    /// First byte, from the beginning of the tensors.
    pub(super) offset: u64,
}

/// The header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// First byte of the tensors.
    pub(super) data: u64,
}

/// What the first byte of the tensors is a multiple of.
const ALIGNMENT: &str = "general.alignment";
/// Arrays may hold arrays; deeper than this none does.
const DEPTH: usize = 4;
/// Dimensions of a tensor in ggml.
const DIMENSIONS: u32 = 4;
/// Bytes of the longest key or name (docs/gguf.md).
const NAME: usize = (1 << 16) - 1;
/// Bytes of the longest header that is read. What it holds is copied, and a file can be any number of zeros.
const HEADER: usize = 256 << 20;
/// Elements of all arrays together, which take more room in memory than in the file; the largest vocabularies have a
/// million.
const ELEMENTS: usize = 1 << 23;

impl Content {
    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let magic = file.get(..4).unwrap_or_default();
        if magic != b"GGUF" {
            let found = String::from_utf8_lossy(magic).escape_debug().to_string();
            return Err(format!("not a GGUF file: it begins with {found:?} instead of \"GGUF\""));
        }
        let mut reader = Reader { file, at: 4, wide: true, elements: 0 };
        let version = reader.u32()?;
        match version {
            1 => reader.wide = false,
            2 | 3 => {}
            _ => return Err(format!("the header cannot be read: version {version}, expected 1 to 3")),
        }
        let (tensors, pairs) = (reader.count()?, reader.count()?);
        let count = reader.least(8);
        reader.room("keys", pairs, count + 4 + 1)?;
        reader.room("tensors", tensors, count + 4 + 4 + 8)?;
        let mut content = Self::default();
        for _ in 0..pairs {
            let key = reader.name()?;
            let value = reader.u32().and_then(|kind| reader.value(kind, 0)).map_err(|e| format!("`{key}`: {e}"))?;
            match content.metadata.entry(key) {
                Entry::Occupied(known) => return Err(format!("the key `{}` is there twice", known.key())),
                Entry::Vacant(place) => place.insert(value),
            };
        }
        for _ in 0..tensors {
            let name = reader.name()?;
            let info = reader.tensor().map_err(|e| format!("tensor `{name}`: {e}"))?;
            match content.tensors.entry(name) {
                Entry::Occupied(known) => return Err(format!("the tensor `{}` is there twice", known.key())),
                Entry::Vacant(place) => place.insert(info),
            };
        }
        let alignment = match content.metadata.get(ALIGNMENT) {
            None => 32,
            Some(value) => unsigned(value)
                .filter(|alignment| alignment.is_power_of_two())
                .ok_or_else(|| format!("`{ALIGNMENT}`: found {value:?}, expected a power of two"))?,
        };
        content.data = (reader.at as u64)
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| format!("`{ALIGNMENT}` is {alignment}; the file is broken"))?;
        Ok(content)
    }
}

/// Any integer type, if not negative.
pub(super) fn unsigned(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(x) => Some(x.into()),
        Value::U16(x) => Some(x.into()),
        Value::U32(x) => Some(x.into()),
        Value::U64(x) => Some(x),
        Value::I8(x) => x.try_into().ok(),
        Value::I16(x) => x.try_into().ok(),
        Value::I32(x) => x.try_into().ok(),
        Value::I64(x) => x.try_into().ok(),
        _ => None,
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// Whether counts have 64 bits; in version 1 they have 32.
    wide: bool,
    /// Elements of the arrays so far.
    elements: usize,
}

impl<'a> Reader<'a> {
    /// Fails where fewer bytes are left than so many things take at least.
    fn room(&self, what: &str, count: usize, least: usize) -> Result<(), String> {
        let left = self.file.len() - self.at;
        if count.checked_mul(least).is_some_and(|bytes| bytes <= left) {
            return Ok(());
        }
        Err(format!("{count} {what} in a file of which {left} bytes are left; it is truncated or broken"))
    }

    /// Bytes of a value of this type at least.
    fn least(&self, kind: u32) -> usize {
        match (kind, self.wide) {
            (0 | 1 | 7, _) => 1,
            (2 | 3, _) => 2,
            (4..=6, _) | (8, false) => 4,
            (9, wide) => 4 + self.least(if wide { 10 } else { 4 }),
            _ => 8,
        }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let size = self.file.len();
        let Some(bytes) = self.at.checked_add(len).and_then(|end| self.file.get(self.at..end)) else {
            return Err(format!(
                "the file is truncated at {size} bytes (the header goes on for {len} after {}); download it again",
                self.at
            ));
        };
        self.at += len;
        if self.at > HEADER {
            return Err(format!("the header is longer than {} MiB; the file is broken", HEADER >> 20));
        }
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.bytes(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Result<usize, String> {
        let count = if self.wide { self.u64()? } else { self.u32()?.into() };
        usize::try_from(count).map_err(|_| format!("the header cannot be read: a count of {count}"))
    }

    /// A string; some files end theirs with zero bytes.
    fn string(&mut self) -> Result<String, String> {
        let len = self.count()?;
        let mut bytes = self.bytes(len)?;
        while let [rest @ .., 0] = bytes {
            bytes = rest;
        }
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The name of a key or a tensor.
    fn name(&mut self) -> Result<String, String> {
        let name = self.string()?;
        if name.len() > NAME {
            Err(format!("a name of {} bytes, expected at most {NAME}", name.len()))
        } else {
            Ok(name)
        }
    }

    fn tensor(&mut self) -> Result<TensorInfo, String> {
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS {
            return Err(format!("{dimensions} dimensions, expected at most {DIMENSIONS}"));
        }
        let mut shape = (0..dimensions).map(|_| self.count()).collect::<Result<Vec<usize>, _>>()?;
        shape.reverse();
        let code = self.u32()?;
        let blocks = BlockType::from_code(code).ok_or_else(|| {
            format!(
                "stored in block type {}, which is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, \
                 Q8_0 and Q2_K to Q8_K",
                BlockType::unknown(code)
            )
        })?;
        Ok(TensorInfo { blocks, shape, offset: self.u64()? })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(format!("the header cannot be read: a flag is {other}, expected 0 or 1")),
            },
            8 => Value::String(self.string()?),
            9 if depth < DEPTH => {
                let (kind, len) = (self.u32()?, self.count()?);
                self.room("elements", len, self.least(kind))?;
                self.elements = self.elements.saturating_add(len);
                if self.elements > ELEMENTS {
                    return Err(format!("an array of {len} elements, expected at most {ELEMENTS} in all arrays"));
                }
                let mut values = Vec::with_capacity(len);
                for _ in 0..len {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            9 => return Err(format!("arrays in arrays, more than {DEPTH} deep")),
            other => return Err(format!("the header cannot be read: a value of type {other}, expected 0 to 12")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and texts as a version writes them.
    struct Writer {
        version: u32,
        file: Vec<u8>,
    }

    impl Writer {
        fn new(version: u32, tensors: u64, pairs: u64) -> Self {
            let file = [b"GGUF".to_vec(), version.to_le_bytes().to_vec()].concat();
            Self { version, file }.count(tensors).count(pairs)
        }

        fn u32(mut self, n: u32) -> Self {
            self.file.extend(n.to_le_bytes());
            self
        }

        fn count(mut self, n: u64) -> Self {
            let bytes = n.to_le_bytes();
            self.file.extend(if self.version == 1 { &bytes[..4] } else { &bytes });
            self
        }

        fn text(self, text: &str) -> Self {
            let mut writer = self.count(text.len() as u64);
            writer.file.extend(text.as_bytes());
            writer
        }

        /// A tensor of three rows of 32 elements in `Q8_0`.
        fn tensor(self, name: &str) -> Self {
            self.text(name).u32(2).count(32).count(3).u32(8).u32(64).u32(0)
        }

        fn refused(&self) -> String {
            Content::read(&self.file).unwrap_err()
        }
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        for version in 1..=3 {
            let header = Writer::new(version, 1, 1).text("a.list").u32(9).u32(4).count(2).u32(7).u32(9);
            let file = header.tensor("w").file;
            let content = Content::read(&file).unwrap();
            assert_eq!(content.metadata["a.list"], Value::Array(vec![Value::U32(7), Value::U32(9)]));
            let info = &content.tensors["w"];
            assert_eq!((info.blocks, info.shape.as_slice(), info.offset), (BlockType::Q8_0, &[3, 32][..], 64));
            assert_eq!(content.data, (file.len() as u64).next_multiple_of(32));
            for len in 4..file.len() {
                assert!(Content::read(&file[..len]).unwrap_err().contains("truncated"), "{len}");
            }
        }
        assert!(Content::read(b"GGML").unwrap_err().contains("not a GGUF file"));
    }

    #[test]
    fn counts_are_compared_with_the_length_of_the_file() {
        for huge in [1 << 20, 1 << 31, 1 << 61, 1 << 63, u64::MAX] {
            let keys = Writer::new(3, 0, huge).refused();
            assert_eq!(keys, format!("{huge} keys in a file of which 0 bytes are left; it is truncated or broken"));
            assert!(Writer::new(3, huge, 0).refused().contains(&format!("{huge} tensors")));
            let list = Writer::new(3, 0, 1).text("a.list").u32(9).u32(8).count(huge).text("x").text("y");
            assert!(list.refused().contains(&format!("`a.list`: {huge} elements in a file of which 18 bytes")));
            let text = Writer::new(3, 0, 1).text("a.text").u32(8).count(huge);
            assert!(
                text.refused()
                    .contains(&format!("`a.text`: the file is truncated at 50 bytes (the header goes on for {huge}"))
            );
        }
        let dimensions = Writer::new(3, 1, 0).text("w").u32(1 << 31).count(1).count(1).count(1);
        assert_eq!(dimensions.refused(), "tensor `w`: 2147483648 dimensions, expected at most 4");
    }

    #[test]
    fn names_are_there_once() {
        let twice = Writer::new(3, 0, 2).text(ALIGNMENT).u32(4).u32(32).text(ALIGNMENT).u32(4).u32(0);
        assert_eq!(twice.refused(), "the key `general.alignment` is there twice");
        assert_eq!(Writer::new(3, 2, 0).tensor("w").tensor("w").refused(), "the tensor `w` is there twice");
    }

    #[test]
    fn alignments_are_powers_of_two() {
        for (alignment, data) in [(0, None), (1, Some(57)), (3, None), (64, Some(64)), (1 << 31, Some(1 << 31))] {
            let header = Writer::new(3, 0, 1).text(ALIGNMENT).u32(4).u32(alignment);
            assert_eq!(header.file.len(), 57);
            assert_eq!(Content::read(&header.file).ok().map(|content| content.data), data, "{alignment}");
        }
        let text = Writer::new(3, 0, 1).text(ALIGNMENT).u32(8).text("32");
        assert_eq!(text.refused(), "`general.alignment`: found String(\"32\"), expected a power of two");
    }

    #[test]
    fn arrays_in_arrays_have_a_depth() {
        let nested =
            |depth| (1..depth).fold(Writer::new(3, 0, 1).text("a").u32(9), |w, _| w.u32(9).count(1)).u32(4).count(0);
        assert!(Content::read(&nested(DEPTH).file).is_ok());
        assert_eq!(nested(DEPTH + 1).refused(), "`a`: arrays in arrays, more than 4 deep");
    }
}
