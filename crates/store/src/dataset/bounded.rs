//! Readers that end where a file asks for more than it may.

use std::io::{self, Error, ErrorKind, Read};

use harness_core::{bytes_in_words, limit_name, limits};

/// The text of a compressed file of `size` bytes, up to what it may become.
pub(super) struct Expanded<R> {
    inner: R,
    left: u64,
}

impl<R> Expanded<R> {
    pub(super) fn new(inner: R, size: u64) -> Self {
        Self { inner, left: size.saturating_mul(limits().expansion).max(limits().line_bytes as u64) }
    }
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What is not the system's is the content's.
        let of_content = |error: Error| match error.raw_os_error() {
            Some(_) => error,
            None => Error::new(ErrorKind::InvalidData, error),
        };
        let read = self.inner.read(buffer).map_err(of_content)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let (times, name) = (limits().expansion, limit_name("expansion"));
            let least = bytes_in_words(limits().line_bytes as u64);
            Error::new(ErrorKind::InvalidData, format!("it expands more than {times}-fold, beyond {least} {name}"))
        })?;
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

    #[test]
    fn what_is_compressed_does_not_grow_without_end() {
        let error = io::copy(&mut Expanded::new(repeat(b'\n'), 10), &mut io::sink()).unwrap_err().to_string();
        assert_eq!(error, "it expands more than 200-fold, beyond 16 MiB (limits.expansion in harness.toml)");
        let large = 2 << 20;
        let fits = repeat(b'\n').take(large * 200);
        assert_eq!(io::copy(&mut Expanded::new(fits, large), &mut io::sink()).unwrap(), large * 200);
    }
}
