//! The header of a GGUF file, version 3, little-endian (ggml's docs/gguf.md).

use harness_kernels::gguf::BlockType;

use super::format::Value;

/// What the first byte of every tensor is a multiple of.
const ALIGNMENT: u64 = 32;

/// A tensor of a file that is written.
pub(super) struct Tensor {
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: BlockType,
}

impl Tensor {
    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() / self.kind.elements() * self.kind.bytes()) as u64
    }
}

/// The bytes before the tensors, and the place in the file of each of them and of the end.
pub(super) fn header(metadata: &[(String, Value)], tensors: &[&Tensor]) -> (Vec<u8>, Vec<u64>) {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        string(&mut out, key);
        out.extend(kind(value).to_le_bytes());
        put(&mut out, value);
    }
    let (mut offset, mut places) = (0u64, vec![]);
    for tensor in tensors {
        string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(tensor.kind.code().to_le_bytes());
        out.extend(offset.to_le_bytes());
        places.push(offset);
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    places.push(offset);
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    places.iter_mut().for_each(|place| *place += out.len() as u64);
    (out, places)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number of a value's type.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(text) => string(out, text),
        Value::Array(values) => {
            // Arrays have elements of one type; an empty one is of numbers.
            out.extend(values.first().map_or(4, kind).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put(out, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::format::Content;

    #[test]
    fn what_is_written_is_read() {
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = vec![
            ("a.text".to_owned(), text("ä b")),
            ("a.size".to_owned(), Value::U32(7)),
            ("a.small".to_owned(), Value::F32(1e-6)),
            ("a.flag".to_owned(), Value::Bool(true)),
            ("a.list".to_owned(), Value::Array(vec![text("x"), text("")])),
            ("a.types".to_owned(), Value::Array(vec![Value::I32(-1), Value::I32(3)])),
        ];
        let tensor = |name: &str, shape: &[usize], kind| Tensor { name: name.to_owned(), shape: shape.to_vec(), kind };
        let tensors = [tensor("v", &[3], BlockType::F32), tensor("w", &[2, 256], BlockType::Q4K)];
        let (bytes, places) = header(&metadata, &tensors.iter().collect::<Vec<_>>());
        let content = Content::read(&bytes).unwrap();
        assert_eq!(content.data, bytes.len() as u64);
        assert_eq!(content.metadata, metadata.into_iter().collect());
        let w = &content.tensors["w"];
        assert_eq!((w.blocks, w.shape.as_slice(), w.offset), (BlockType::Q4K, &[2, 256][..], 32));
        assert_eq!(places, [0, 32, 32 + 288].map(|place| place + content.data));
    }
}
