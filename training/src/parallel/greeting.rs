//! How two processes make sure that they are of the same run, before anything that one says counts with the other.
//!
//! The one that is called sends a number that was never used; the caller answers with who it is, a number of its own, and
//! a seal over all of it, which only the secret of the run can make; the one that is called proves itself in the same way.
//! Nothing that the other side sends is read beyond a small length, nor waited for beyond a moment.

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{IpAddr, TcpStream},
    time::{Duration, Instant},
};

use harness_core::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::secret::{Secret, nonce};
use crate::shown::Shown;

/// What both sides send first: the program, and the form of what follows.
const MARK: &[u8; 16] = b"harness ranks 1\n";
/// How long a caller may take to say who it is.
pub(super) const MOMENT: Duration = Duration::from_secs(1);
/// How long a caller waits for one that is to prove itself: longer, because it may be busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes in which a caller says who it is.
const LONGEST_HELLO: usize = 1024;

/// Who calls, and what for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: String,
    pub(super) world: usize,
    pub(super) rank: usize,
    pub(super) wish: Wish,
}

/// What a call is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// To hear where all ranks listen; this one listens at a port.
    Places { port: u16 },
    /// To exchange what is computed.
    Exchange,
}

/// What rank 0 answers: where everybody listens, or why the run does not start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Places(Vec<(IpAddr, u16)>),
    Refused(String),
}

/// A connection with a rank of the run.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: TcpStream,
    secret: Secret,
    nonce: Digest,
}

/// What a caller seals: who it is, with a number of its own.
#[derive(Serialize, Deserialize)]
struct Sealed {
    nonce: Digest,
    hello: Hello,
}

/// A connection that is read until a point in time, however slowly the bytes come.
struct Until<'a>(&'a TcpStream, Instant);

impl Read for Until<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        let mut stream = self.0;
        stream.read(to)
    }
}

/// Answers a call: the caller and the line to it, or why it is none of this run.
pub(super) fn answer(mut stream: TcpStream, secret: &Secret) -> Result<(Hello, Line), String> {
    let end = Instant::now() + MOMENT;
    let broken = |error: Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("did not say within {} s who it is", MOMENT.as_secs())
        }
        _ => "ended before it had said who it is".to_owned(),
    };
    let nonce = nonce().map_err(|error| format!("cannot be answered: /dev/urandom: {error}"))?;
    let began = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(MOMENT)));
    began.and_then(|()| stream.write_all(&[MARK, nonce.as_bytes().as_slice()].concat())).map_err(broken)?;
    let mut from = Until(&stream, end);
    let mut mark = [0; MARK.len()];
    from.read_exact(&mut mark).map_err(broken)?;
    if mark != *MARK {
        return Err(format!("began with {}", quoted(&mark)));
    }
    let (seal, text) = read_sealed(&mut from, LONGEST_HELLO).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => error.to_string(),
        _ => broken(error),
    })?;
    if !secret.is_sealed(&seal, "hello", &nonce, &text) {
        return Err("does not have the secret of this run".to_owned());
    }
    let sealed: Sealed = serde_json::from_slice(&text).map_err(|error| format!("cannot be understood: {error}"))?;
    let secret = secret.of_connection(&nonce, &text);
    let proof = secret.seal("welcome", &sealed.nonce, &[]);
    stream.write_all(proof.as_bytes()).map_err(broken)?;
    Ok((sealed.hello, Line { stream, secret, nonce: sealed.nonce }))
}

/// Calls a process and says who this is; the line to it, once it has proven that it is of the run.
pub(super) fn call(mut stream: TcpStream, secret: &Secret, hello: Hello, end: Instant) -> std::io::Result<Line> {
    let until = end.min(Instant::now() + PATIENCE);
    let unproven = |error: Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Error::new(ErrorKind::TimedOut, "the listener does not prove that it belongs to this run")
        }
        _ => Error::other("the listener closed the connection: it may belong to another run, or have another secret"),
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut mark, mut theirs) = ([0; MARK.len()], [0; 32]);
    Until(&stream, until).read_exact(&mut mark).map_err(unproven)?;
    if mark != *MARK {
        return Err(Error::other(format!("the listener is no rank: it began with {}", quoted(&mark))));
    }
    Until(&stream, until).read_exact(&mut theirs).map_err(unproven)?;
    let theirs = Digest::from(theirs);
    let nonce = nonce()?;
    let text = serde_json::to_vec(&Sealed { nonce, hello })?;
    let seal = secret.seal("hello", &theirs, &text);
    write_sealed(&mut stream, MARK, &seal, &text).map_err(unproven)?;
    let mut proof = [0; 32];
    Until(&stream, until).read_exact(&mut proof).map_err(unproven)?;
    let secret = secret.of_connection(&theirs, &text);
    if !secret.is_sealed(&proof, "welcome", &nonce, &[]) {
        return Err(Error::other("the listener does not have the secret of this run"));
    }
    Ok(Line { stream, secret, nonce })
}

impl Line {
    /// Gives an answer.
    pub(super) fn send(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let text = serde_json::to_vec(value)?;
        let seal = self.secret.seal("answer", &self.nonce, &text);
        write_sealed(&mut self.stream, &[], &seal, &text)
    }

    /// The answer, of at most so many bytes, which comes before `end`.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, longest: usize, end: Instant) -> std::io::Result<T> {
        let (seal, text) = read_sealed(&mut Until(&self.stream, end), longest)?;
        if !self.secret.is_sealed(&seal, "answer", &self.nonce, &text) {
            return Err(Error::other("the answer is not from a rank of this run"));
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether the other side has ended the call.
    pub(super) fn is_gone(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let read = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            read
        };
        match peek() {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn write_sealed(to: &mut TcpStream, before: &[u8], seal: &Digest, text: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(text.len()).map_err(Error::other)?;
    to.write_all(&[before, &length.to_le_bytes(), seal.as_bytes(), text].concat())
}

fn read_sealed(from: &mut impl Read, longest: usize) -> std::io::Result<([u8; 32], Vec<u8>)> {
    let (mut length, mut seal) = ([0; 4], [0; 32]);
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > longest {
        let message = format!("announced {length} bytes where a rank sends at most {longest}");
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    from.read_exact(&mut seal)?;
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok((seal, text))
}

/// Bytes of a stranger, as they may be shown.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", Shown(&String::from_utf8_lossy(bytes)))
}
