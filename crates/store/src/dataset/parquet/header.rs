//! The sizes in the header of a page, read before the `parquet` crate makes room by them.
//!
//! A header is a struct of Thrift's compact protocol: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>,
//! `PageHeader` of <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use std::io::{self, Error, ErrorKind, Read, Take};

/// Structs in structs; a header has three.
const DEPTH: u32 = 16;

/// What a page says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the header itself.
    pub(super) bytes: u64,
    /// 0 a page of data, 1 an index, 2 a dictionary, 3 a page of data of version 2.
    pub(super) kind: i64,
    /// Bytes of the page.
    pub(super) expanded: i64,
    /// Bytes of the page in the file.
    pub(super) compressed: i64,
}

impl Header {
    /// Reads a header, which must end before the input does.
    ///
    /// # Errors
    /// If it does not, or is none.
    pub(super) fn read(input: Take<impl Read>) -> io::Result<Self> {
        let before = input.limit();
        let mut compact = Compact(input);
        let mut header = Self::default();
        let mut id = 0;
        while let Some(kind) = compact.field(&mut id)? {
            match id {
                1 => header.kind = compact.integer()?,
                2 => header.expanded = compact.integer()?,
                3 => header.compressed = compact.integer()?,
                _ => compact.skip(kind, false, DEPTH)?,
            }
        }
        header.bytes = before - compact.0.limit();
        Ok(header)
    }

    /// Whether rows are made from the page.
    pub(super) fn is_data(&self) -> bool {
        matches!(self.kind, 0 | 2 | 3)
    }
}

struct Compact<R>(Take<R>);

impl<R: Read> Compact<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn natural(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken("an integer of more than ten bytes"))
    }

    fn integer(&mut self) -> io::Result<i64> {
        let value = self.natural()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Reads the beginning of a field: its type, and its id, which may be told by the one before; none at the end.
    fn field(&mut self, id: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *id = match byte >> 4 {
            0 => self.integer()?,
            more => id.saturating_add(more.into()),
        };
        Ok(Some(byte & 0xf))
    }

    fn bytes(&mut self, count: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.0).take(count), &mut io::sink())?;
        if passed == count { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Passes over a value; a truth value takes a byte only in a list.
    fn skip(&mut self, kind: u8, in_list: bool, depth: u32) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| broken("structs too deep in each other"))?;
        match kind {
            1 | 2 if !in_list => Ok(()),
            1..=3 => self.bytes(1),
            4..=6 => self.natural().map(|_| ()),
            7 => self.bytes(8),
            8 => self.natural().and_then(|count| self.bytes(count)),
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.natural()? } else { u64::from(byte >> 4) };
                // Each takes a byte at least, so that the input ends before the count does.
                (0..count).try_for_each(|_| self.skip(byte & 0xf, true, depth))
            }
            11 => {
                let count = self.natural()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.skip(kinds >> 4, true, depth)?;
                    self.skip(kinds & 0xf, true, depth)
                })
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, false, depth)?;
                }
                Ok(())
            }
            13 => self.bytes(16),
            _ => Err(broken("a value of an unknown type")),
        }
    }
}

fn broken(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Header> {
        Header::read(bytes.take(bytes.len() as u64))
    }

    #[test]
    fn sizes_stand_before_what_is_passed_over() {
        // A page of data of 300 bytes, 150 compressed, with 5 values and statistics that have a text and a truth value.
        let bytes = [
            0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0xac, 0x02, 0x2c, 0x15, 0x0a, 0x4c, 0x18, 2, b'a', b'b', 0x61, 0, 0, 0,
            9,
        ];
        let header = Header { bytes: 20, kind: 0, expanded: 300, compressed: 150 };
        assert_eq!(read(&bytes).unwrap(), header);
        for end in 0..20 {
            assert_eq!(read(&bytes[..end]).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        // A list of 2⁶³ integers, a text of as many bytes, structs in structs.
        let mut many = vec![0xff; 9];
        many.push(0x01);
        assert!(read(&[&[0x49, 0xf5][..], &many].concat()).is_err());
        assert!(read(&[&[0x48][..], &many].concat()).is_err());
        assert!(read(&[0x4c; 1 << 10]).unwrap_err().to_string().contains("too deep"));
        assert!(read(&[0xff; 64]).is_err());
        // Elements of a type that takes no bytes.
        assert!(read(&[0x49, 0xf0, 0xff, 0xff, 0x7f]).unwrap_err().to_string().contains("unknown type"));
    }
}
