//! The header of a GGUF file, versions 1 to 3, little-endian (ggml's docs/gguf.md).

use std::collections::BTreeMap;

use harness_kernels::gguf::BlockType;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
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

/// Arrays may hold arrays; deeper than this none does.
const DEPTH: usize = 4;

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
        let mut reader = Reader { file, at: 4, wide: true };
        let version = reader.u32()?;
        match version {
            1 => reader.wide = false,
            2 | 3 => {}
            _ => return Err(format!("the header cannot be read: version {version}, expected 1 to 3")),
        }
        let (tensors, pairs) = (reader.count()?, reader.count()?);
        let mut content = Self::default();
        for _ in 0..pairs {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            content.metadata.insert(key, value);
        }
        for _ in 0..tensors {
            let name = reader.string()?;
            let dimensions = reader.u32()?;
            let mut shape = (0..dimensions).map(|_| reader.count()).collect::<Result<Vec<usize>, _>>()?;
            shape.reverse();
            let code = reader.u32()?;
            let blocks = BlockType::from_code(code).ok_or_else(|| {
                format!(
                    "a tensor is stored in block type {}, which is not supported; supported are F32, F16, BF16, Q4_0, \
                     Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q8_K",
                    BlockType::unknown(code)
                )
            })?;
            let offset = reader.u64()?;
            content.tensors.insert(name, TensorInfo { blocks, shape, offset });
        }
        let alignment = match content.metadata.get("general.alignment") {
            None => 32,
            Some(value) => match unsigned(value) {
                Some(0) => return Err("`general.alignment` is 0; the file is broken".to_owned()),
                Some(alignment) => alignment,
                None => return Err(format!("`general.alignment`: found {value:?}, expected an unsigned integer")),
            },
        };
        content.data = (reader.at as u64)
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| format!("`general.alignment` is {alignment}; the file is broken"))?;
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
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.file.len());
        let Some(end) = end else {
            let (size, at) = (self.file.len(), self.at);
            return Err(format!(
                "the file is truncated at {size} bytes (the header goes on after {at}); download it again"
            ));
        };
        let bytes = &self.file[self.at..end];
        self.at = end;
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
                // A length that the file cannot hold is found out by reading, not by making room.
                let mut values = Vec::with_capacity(len.min(self.file.len() - self.at));
                for _ in 0..len {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("the header cannot be read: a value of type {other}, expected 0 to 12")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of one pair and one tensor.
    fn header(version: u32) -> Vec<u8> {
        let count = |n: u64| if version == 1 { (n as u32).to_le_bytes().to_vec() } else { n.to_le_bytes().to_vec() };
        let string = |text: &str| [count(text.len() as u64), text.as_bytes().to_vec()].concat();
        let mut file = [b"GGUF".to_vec(), version.to_le_bytes().to_vec(), count(1), count(1)].concat();
        file.extend(string("a.list"));
        file.extend([9u32.to_le_bytes(), 4u32.to_le_bytes()].concat());
        file.extend(count(2));
        file.extend([7u32.to_le_bytes(), 9u32.to_le_bytes()].concat());
        file.extend(string("w"));
        file.extend(2u32.to_le_bytes());
        file.extend([count(32), count(3)].concat());
        file.extend(8u32.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        for version in 1..=3 {
            let file = header(version);
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
}
