//! Readers that end where a file asks for more than it may.

use std::io::{self, BufReader, Error, ErrorKind, Read};

use harness_core::{bytes_in_words, limit_name, limits};

/// Bytes of a compressed file that are read at once, so that those that were read are about those that were needed.
const PIECE: usize = 1 << 14;

/// Bytes of the parts that are looked at.
const PART: u64 = 8 << 20;

/// The content of a file that is compressed by Zstandard. A part of it that needed next to no compressed bytes was made to
/// fill memory: no part may be more than `limits.expansion` times as long as they were.
pub(super) struct Expanded<R: Read> {
    decoder: zstd::Decoder<'static, BufReader<Counted<R>>>,
    /// Bytes of the present part, and compressed bytes before it.
    part: u64,
    before: u64,
}

impl<R: Read> Expanded<R> {
    pub(super) fn new(file: R) -> io::Result<Self> {
        let counted = Counted { inner: file, read: 0 };
        let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(PIECE, counted))?;
        Ok(Self { decoder, part: 0, before: 0 })
    }
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What is not the system's is the content's.
        let of_content = |error: Error| match error.raw_os_error() {
            Some(_) => error,
            None => Error::new(ErrorKind::InvalidData, error),
        };
        let read = self.decoder.read(buffer).map_err(of_content)?;
        self.part += read as u64;
        if self.part >= PART {
            let compressed = self.decoder.get_ref().get_ref().read;
            check_expanded(self.part, compressed - self.before)
                .map_err(|reason| Error::new(ErrorKind::InvalidData, reason))?;
            (self.part, self.before) = (0, compressed);
        }
        Ok(read)
    }
}

/// Whether a part of so many bytes may be made of so many compressed ones: a short one always.
///
/// # Errors
/// Why not, with the limit.
pub(super) fn check_expanded(part: u64, compressed: u64) -> Result<(), String> {
    if part < PART || part / limits().expansion.max(1) <= compressed {
        return Ok(());
    }
    let (part, times, name) = (bytes_in_words(PART), limits().expansion, limit_name("expansion"));
    Err(format!("a part of {part} is more than {times} times as long as it is compressed {name}"))
}

/// Counts what is read.
pub(super) struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

/// Data in lines, none of which may be longer than a line may be.
pub(super) struct Lines<R> {
    inner: R,
    line: u64,
    length: usize,
}

impl<R> Lines<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, line: 1, length: 0 }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut rest = &buffer[..read];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.check(end)?;
            (self.line, self.length, rest) = (self.line + 1, 0, &rest[end + 1..]);
        }
        self.check(rest.len())?;
        Ok(read)
    }
}

impl<R> Lines<R> {
    fn check(&mut self, more: usize) -> io::Result<()> {
        self.length += more;
        if self.length <= limits().line_bytes {
            return Ok(());
        }
        let (most, name) = (bytes_in_words(limits().line_bytes as u64), limit_name("line_bytes"));
        Err(Error::new(ErrorKind::InvalidData, format!("line {} is longer than {most} {name}", self.line)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, repeat};

    use super::*;

    #[test]
    fn a_line_has_an_end() {
        let mut text = Vec::new();
        Lines::new(Cursor::new("ab\n\nc")).read_to_end(&mut text).unwrap();
        assert_eq!(text, b"ab\n\nc");
        let endless = Cursor::new("first\n").chain(repeat(b'a'));
        let error = io::copy(&mut Lines::new(endless), &mut io::sink()).unwrap_err().to_string();
        assert_eq!(error, "line 2 is longer than 16 MiB (limits.line_bytes in harness.toml)");
    }

    fn compressed(content: impl Read) -> Vec<u8> {
        let mut packed = vec![];
        zstd::stream::copy_encode(content, &mut packed, 1).unwrap();
        packed
    }

    #[test]
    fn what_is_compressed_does_not_grow_without_end() {
        let bomb = compressed(repeat(b'\n').take(30 << 20));
        let error = io::copy(&mut Expanded::new(&bomb[..]).unwrap(), &mut io::sink()).unwrap_err().to_string();
        let told =
            "a part of 8 MiB is more than 200 times as long as it is compressed (limits.expansion in harness.toml)";
        assert_eq!(error, told);
        // The same in front of what cannot be compressed, and behind it.
        let noise: Vec<u8> = (0..9_u64 << 17).flat_map(|i| (i.wrapping_mul(i) ^ i << 40).to_le_bytes()).collect();
        for content in [[noise.clone(), vec![0; 30 << 20]], [vec![0; 30 << 20], noise.clone()]] {
            let bomb = compressed(&content.concat()[..]);
            assert!(io::copy(&mut Expanded::new(&bomb[..]).unwrap(), &mut io::sink()).is_err());
        }
        let text: String = (0..400_000).map(|i| format!("{{\"question\": \"What is {i} + {i}?\"}}\n")).collect();
        let rows = compressed(text.as_bytes());
        let read = io::copy(&mut Expanded::new(&rows[..]).unwrap(), &mut io::sink()).unwrap();
        assert_eq!(read, text.len() as u64, "rows of {} in {}", text.len(), rows.len());
    }
}
