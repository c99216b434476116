//! The functions that bytes of a stranger meet first, for tests that send them any bytes (`tests/hostile`).

use std::{
    io::{Error, Read},
    net::TcpStream,
    time::{Duration, Instant},
};

use harness_core::Digest;

use super::{
    frames::{self, Limits},
    greeting::{self, Answer, Hello, Wish},
    secret::Secret,
};

/// Reads a frame as ranks do before anything is agreed; it is written as it would be sent on.
///
/// # Errors
/// If it is none.
pub fn frame(from: &mut &[u8]) -> Result<Vec<u8>, Error> {
    let frame = frames::read(from, &Limits::default())?;
    let mut written = vec![];
    frames::write(&mut written, &frame)?;
    Ok(written)
}

/// Answers a call.
///
/// # Errors
/// Why the caller is none of this run.
pub fn answer(stream: TcpStream, secret: &Secret) -> Result<(), String> {
    let (_, mut line) = greeting::answer(stream, secret)?;
    line.send(&Answer::Refused(String::new())).map_err(|error| error.to_string())
}

/// Calls a process, and hears where all ranks are.
///
/// # Errors
/// Why it is none of this run.
pub fn call(stream: TcpStream, secret: &Secret) -> Result<(), Error> {
    let hello = Hello { version: String::new(), world: 2, rank: 1, wish: Wish::Places { port: 1 } };
    let end = Instant::now() + Duration::from_secs(1);
    greeting::call(stream, secret, hello, end)?.receive::<Answer>(1 << 10, end).map(drop)
}

/// What a caller that knows the secret sends to one that listens: any text, sealed.
pub fn sealed(stream: &mut TcpStream, secret: &Secret, text: &[u8]) -> Vec<u8> {
    let mut greeting = [0; 48];
    if stream.read_exact(&mut greeting).is_err() {
        return vec![];
    }
    let (mark, nonce) = greeting.split_at(16);
    let nonce = Digest::from(<[u8; 32]>::try_from(nonce).unwrap_or_default());
    let seal = secret.seal("hello", &nonce, text);
    [mark, &(text.len() as u32).to_le_bytes(), seal.as_bytes(), text].concat()
}
