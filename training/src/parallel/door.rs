//! Where a process is called by other ranks: every call is answered beside the others, and strangers are turned away.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    greeting::{self, Hello, Line},
    secret::Secret,
};
use crate::shown::Shown;

/// Calls answered at the same time; each takes a moment at most, and others wait.
const AT_ONCE: usize = 256;
/// How many different things strangers do are told of.
const TOLD: usize = 16;
/// How often it is looked whether somebody calls.
const ASKED: Duration = Duration::from_millis(5);
/// Stack of a thread that answers one call.
const STACK: usize = 256 << 10;

/// Who has called.
#[derive(Debug)]
pub(super) enum Caller {
    /// A rank of this run.
    Rank(Hello, Line),
    /// Somebody else, in words: the address and what was wrong.
    Stranger(String),
}

/// A place where this process is called, until it is dropped.
#[derive(Debug)]
pub(super) struct Door {
    port: u16,
    callers: Receiver<Caller>,
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the threads of a door share.
#[derive(Debug)]
struct Desk {
    secret: Secret,
    busy: AtomicUsize,
    /// What was told of strangers: one that calls again and again is told of once.
    told: Mutex<HashSet<(IpAddr, String)>>,
    callers: Sender<Caller>,
}

impl Door {
    /// Answers calls from now on.
    pub(super) fn open(listener: TcpListener, secret: &Secret) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (sender, callers) = mpsc::channel();
        let closed = Arc::new(AtomicBool::new(false));
        let told = Mutex::default();
        let desk = Arc::new(Desk { secret: secret.clone(), busy: AtomicUsize::new(0), told, callers: sender });
        let stop = Arc::clone(&closed);
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let free = desk.busy.load(Ordering::Relaxed) < AT_ONCE;
                // A call that cannot be taken now is taken later, or comes again.
                match free.then(|| listener.accept()) {
                    Some(Ok((stream, address))) => desk.take(stream, address),
                    _ => thread::sleep(ASKED),
                }
            }
        });
        Ok(Self { port, callers, closed, thread: Some(thread) })
    }

    /// The port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Who calls next, or has called already; nobody if none comes before `end`.
    pub(super) fn next(&self, end: Instant) -> Option<Caller> {
        self.callers.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Desk {
    /// Answers a call on a thread of its own; without one, the call ends.
    fn take(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let desk = Arc::clone(self);
        let begun = thread::Builder::new().stack_size(STACK).spawn(move || {
            desk.answer(stream, address);
            desk.busy.fetch_sub(1, Ordering::Relaxed);
        });
        if begun.is_err() {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, stream: TcpStream, address: SocketAddr) {
        let caller = match greeting::answer(stream, &self.secret) {
            Ok((hello, line)) => Caller::Rank(hello, line),
            Err(what) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.len() == TOLD || !told.insert((address.ip(), what.clone())) {
                    return;
                }
                let last = if told.len() == TOLD { "; further ones are not reported" } else { "" };
                let text = format!("a connection from {address} {what}; it takes no part{last}");
                Caller::Stranger(Shown(&text).to_string())
            }
        };
        // Nobody may ask any more.
        let _ = self.callers.send(caller);
    }
}
