//! What goes over a connection between two ranks, and how much of it is taken from the other side.

use std::{
    io::{Error, ErrorKind, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::exchange::Bytes;
use crate::shown::Shown;

/// Independent streams of operations over the same connections.
pub(super) const CHANNELS: usize = 2;
/// Most bytes of one part before it is known what is trained: facts about the run, names of GPUs.
pub(crate) const FACTS: u64 = 1 << 20;
/// Most bytes of the words in which a rank says why it ends.
const WORDS: usize = 4096;

/// What goes over a connection.
#[derive(Debug)]
pub(super) enum Frame {
    Data(usize, Bytes),
    Abort(String),
    Alive,
    Goodbye,
}

/// Most bytes of a part on each channel.
#[derive(Debug)]
pub(super) struct Limits([AtomicU64; CHANNELS]);

impl Default for Limits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(FACTS)))
    }
}

impl Limits {
    /// Allows parts of so many bytes, if not longer ones already.
    pub(super) fn raise(&self, channel: usize, bytes: u64) {
        self.0[channel].fetch_max(bytes, Ordering::SeqCst);
    }
}

/// What is wrong with what came: the other side speaks another language.
fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

/// Writes a frame: kind, channel, length, bytes.
pub(super) fn write(to: &mut impl Write, frame: &Frame) -> std::io::Result<()> {
    let (kind, channel, bytes): (u8, usize, &[u8]) = match frame {
        Frame::Data(channel, bytes) => (0, *channel, bytes),
        Frame::Abort(message) => (1, 0, &message.as_bytes()[..message.floor_char_boundary(WORDS)]),
        Frame::Alive => (2, 0, &[]),
        Frame::Goodbye => (3, 0, &[]),
    };
    to.write_all(&[kind, channel as u8])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads a frame. Memory is taken as bytes come, not as they are announced.
///
/// # Errors
/// [`ErrorKind::InvalidData`], with words, if it is no frame or a longer one than expected; what the connection says.
pub(super) fn read(from: &mut impl Read, limits: &Limits) -> std::io::Result<Frame> {
    let (mut head, mut length) = ([0u8; 2], [0u8; 8]);
    from.read_exact(&mut head)?;
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let [kind, channel] = head;
    let longest = match (kind, limits.0.get(usize::from(channel))) {
        (0, Some(limit)) => limit.load(Ordering::SeqCst),
        (1, _) if channel == 0 => WORDS as u64,
        (2 | 3, _) if channel == 0 => 0,
        _ => return Err(wrong(format!("sent something of kind {kind} on channel {channel}, which does not exist"))),
    };
    if length > longest {
        return Err(wrong(format!(
            "announced {length} bytes where at most {longest} were expected; do all ranks run the same build?"
        )));
    }
    let mut bytes = vec![];
    from.by_ref().take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(match kind {
        0 => Frame::Data(usize::from(channel), Arc::from(bytes)),
        1 => Frame::Abort(Shown(&String::from_utf8_lossy(&bytes)).to_string()),
        2 => Frame::Alive,
        _ => Frame::Goodbye,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u8, length: u64, bytes: &[u8]) -> Vec<u8> {
        [&[kind, channel], length.to_le_bytes().as_slice(), bytes].concat()
    }

    fn refused(bytes: &[u8]) -> String {
        read(&mut &*bytes, &Limits::default()).unwrap_err().to_string()
    }

    #[test]
    fn frames_come_as_they_went() {
        let mut line = vec![];
        let data = Frame::Data(1, Arc::from([7; 1000].as_slice()));
        for frame in [data, Frame::Alive, Frame::Abort("é".repeat(WORDS)), Frame::Goodbye] {
            write(&mut line, &frame).unwrap();
        }
        let (mut from, limits) = (line.as_slice(), Limits::default());
        assert!(matches!(read(&mut from, &limits).unwrap(), Frame::Data(1, bytes) if *bytes == [7; 1000]));
        assert!(matches!(read(&mut from, &limits).unwrap(), Frame::Alive));
        assert!(matches!(read(&mut from, &limits).unwrap(), Frame::Abort(text) if text.starts_with("ééé")));
        assert!(matches!(read(&mut from, &limits).unwrap(), Frame::Goodbye));
        assert!(from.is_empty());
    }

    #[test]
    fn announced_lengths_are_held_against_what_is_expected() {
        for length in [FACTS + 1, 64 << 30, 1 << 40, 1 << 62, u64::MAX] {
            let expected = format!("announced {length} bytes where at most {FACTS} were expected");
            assert!(refused(&frame(0, 0, length, b"x")).contains(&expected));
        }
        let limits = Limits::default();
        limits.raise(1, u64::MAX);
        // All of it is allowed, and little of it comes: that is the end of the connection, and takes little memory.
        let end = read(&mut frame(0, 1, 1 << 62, b"x").as_slice(), &limits).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        limits.raise(1, 5);
        assert!(refused(&frame(1, 0, WORDS as u64 + 1, b"x")).contains("where at most 4096 were expected"));
        assert!(refused(&frame(2, 0, 1, b"x")).contains("where at most 0 were expected"));
    }

    #[test]
    fn what_is_no_frame_is_named() {
        assert!(refused(&frame(9, 0, 0, b"")).contains("kind 9 on channel 0"));
        assert!(refused(&frame(0, 2, 0, b"")).contains("kind 0 on channel 2"));
        assert!(refused(b"GET / HTTP/1.1\r\n\r\n").contains("kind 71 on channel 69"));
    }

    #[test]
    fn words_of_another_rank_are_escaped() {
        let bytes = frame(1, 0, 12, b"\x1b[2J\x1b]0;a\xff\x07\n");
        let Frame::Abort(text) = read(&mut bytes.as_slice(), &Limits::default()).unwrap() else { panic!("words") };
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}
