//! Ranks as processes, on one host or on many: a connection between every two of them.
//!
//! A thread writes and a thread reads on every connection, so that nobody waits for a slow reader. A sign of life goes
//! out every two seconds whatever the process computes; a connection that is silent for twenty is given up.

use std::{
    io::{BufReader, BufWriter, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use super::{
    Launch,
    exchange::{Bytes, Exchange},
    frames::{self, CHANNELS, Frame, Limits},
    rendezvous,
};
use crate::TrainingError;

const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
/// Parts of one rank on one channel that nobody has asked for yet: of the present operation and of the next, which cannot
/// end before this rank takes part in it.
const AHEAD: usize = 2;

/// One stream of operations of one rank.
#[derive(Debug)]
pub struct TcpExchange {
    mesh: Arc<Mesh>,
    channel: usize,
}

#[derive(Debug)]
struct Mesh {
    rank: usize,
    world: usize,
    peers: Vec<Option<Peer>>,
    /// How much is taken from another rank.
    limits: Arc<Limits>,
    /// The first failure of another rank.
    failed: Arc<Mutex<Option<(usize, String)>>>,
}

#[derive(Debug)]
struct Peer {
    outbox: Mutex<Option<Sender<Frame>>>,
    inbox: [Mutex<Receiver<Bytes>>; CHANNELS],
    stream: TcpStream,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl TcpExchange {
    /// Meets the other ranks of a run; two independent streams of operations. `tell` hears of connections that are not of
    /// this run, which take no part in it.
    ///
    /// # Errors
    /// [`TrainingError::Launch`] if they do not all come within `patience`.
    pub fn connect(
        launch: &Launch,
        patience: Duration,
        tell: &dyn Fn(&str),
    ) -> Result<[Self; CHANNELS], TrainingError> {
        let streams = rendezvous::connect(launch, patience, tell)?;
        let (failed, limits) = (Arc::new(Mutex::new(None)), Arc::new(Limits::default()));
        let peers = streams
            .into_iter()
            .enumerate()
            .map(|(rank, stream)| stream.map(|stream| Peer::start(rank, stream, &failed, &limits)).transpose());
        let peers = peers.collect::<std::io::Result<Vec<_>>>();
        let peers = peers.map_err(|e| TrainingError::Launch { message: format!("cannot use a connection: {e}") })?;
        let mesh = Arc::new(Mesh { rank: launch.rank, world: launch.world, peers, limits, failed });
        Ok(std::array::from_fn(|channel| Self { mesh: Arc::clone(&mesh), channel }))
    }

    fn check(&self) -> Result<(), TrainingError> {
        self.failure().map_or(Ok(()), |(rank, message)| Err(TrainingError::Peer { rank, message }))
    }
}

impl Exchange for TcpExchange {
    fn rank(&self) -> usize {
        self.mesh.rank
    }

    fn world(&self) -> usize {
        self.mesh.world
    }

    fn all_to_all(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>, TrainingError> {
        for (peer, part) in self.mesh.peers.iter().zip(&parts) {
            if let Some(peer) = peer {
                peer.send(Frame::Data(self.channel, Arc::clone(part)));
            }
        }
        let mut received = Vec::with_capacity(parts.len());
        for (rank, peer) in self.mesh.peers.iter().enumerate() {
            let Some(peer) = peer else {
                received.push(Arc::clone(&parts[rank]));
                continue;
            };
            let inbox = peer.inbox[self.channel].lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                match inbox.recv_timeout(Duration::from_millis(100)) {
                    Ok(bytes) => {
                        received.push(bytes);
                        break;
                    }
                    // Another rank than the one waited for may be gone.
                    Err(RecvTimeoutError::Timeout) => self.check()?,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.check()?;
                        return Err(TrainingError::Peer { rank, message: "has left the run".to_owned() });
                    }
                }
            }
        }
        Ok(received)
    }

    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        self.mesh.limits.raise(self.channel, bytes);
        // Nobody goes on before all have done this.
        self.all_to_all(vec![Arc::from([].as_slice()); self.mesh.world]).map(drop)
    }

    fn abort(&self, message: &str) {
        for peer in self.mesh.peers.iter().flatten() {
            peer.send(Frame::Abort(message.to_owned()));
        }
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.mesh.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for peer in self.peers.iter().flatten() {
            peer.send(Frame::Goodbye);
            // The writer ends after what is in its queue; only then is the connection closed.
            drop(peer.outbox.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        for peer in self.peers.iter().flatten() {
            if let Some(writer) = peer.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = writer.join();
            }
            let _ = peer.stream.shutdown(Shutdown::Write);
        }
    }
}

impl Peer {
    fn start(
        rank: usize,
        stream: TcpStream,
        failed: &Arc<Mutex<Option<(usize, String)>>>,
        limits: &Arc<Limits>,
    ) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (outbox, queue) = mpsc::channel();
        let (senders, inbox): (Vec<SyncSender<Bytes>>, Vec<Receiver<Bytes>>) =
            (0..CHANNELS).map(|_| mpsc::sync_channel(AHEAD)).unzip();
        let mut inbox = inbox.into_iter().map(Mutex::new);
        let inbox = std::array::from_fn(|_| inbox.next().unwrap_or_else(|| Mutex::new(mpsc::channel().1)));
        let to = stream.try_clone()?;
        let writer = thread::spawn(move || {
            // A failure to write shows itself to the reader as well, which tells of it.
            let _ = write(BufWriter::with_capacity(1 << 16, to), &queue);
        });
        let (from, failed, limits) = (stream.try_clone()?, Arc::clone(failed), Arc::clone(limits));
        thread::spawn(move || {
            let message = match read(&mut BufReader::with_capacity(1 << 16, &from), &limits, &senders) {
                Ok(message) => message,
                Err(e) => Some(match e.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        format!("gave no sign of life for {} s", PATIENCE.as_secs())
                    }
                    ErrorKind::InvalidData => {
                        // Nothing more of it is read, nor has it to wait for that.
                        let _ = from.shutdown(Shutdown::Both);
                        e.to_string()
                    }
                    ErrorKind::OutOfMemory => "sent more than there is memory for".to_owned(),
                    _ => "is gone: its process has ended or the connection is broken".to_owned(),
                }),
            };
            if let Some(message) = message {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((rank, message));
            }
        });
        Ok(Self { outbox: Mutex::new(Some(outbox)), inbox, stream, writer: Mutex::new(Some(writer)) })
    }

    fn send(&self, frame: Frame) {
        if let Some(outbox) = &*self.outbox.lock().unwrap_or_else(PoisonError::into_inner) {
            // A writer that is gone shows itself in what is received.
            let _ = outbox.send(frame);
        }
    }
}

/// Writes frames until there are no more.
fn write(mut to: impl Write, queue: &Receiver<Frame>) -> std::io::Result<()> {
    loop {
        let frame = match queue.recv_timeout(SIGN_OF_LIFE) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => Frame::Alive,
            Err(RecvTimeoutError::Disconnected) => return to.flush(),
        };
        frames::write(&mut to, &frame)?;
    }
}

/// Reads frames until the other side says goodbye (`None`) or why it ends (its words).
fn read(from: &mut impl Read, limits: &Limits, channels: &[SyncSender<Bytes>]) -> std::io::Result<Option<String>> {
    loop {
        match frames::read(from, limits)? {
            Frame::Data(channel, bytes) => {
                if let Err(TrySendError::Full(_)) = channels[channel].try_send(bytes) {
                    let message = format!("sent more than {AHEAD} parts that nobody has asked for");
                    return Err(std::io::Error::new(ErrorKind::InvalidData, message));
                }
            }
            Frame::Abort(message) => return Ok(Some(message)),
            Frame::Alive => {}
            Frame::Goodbye => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Instant};

    use super::*;
    use crate::parallel::frames::FACTS;

    /// Rank 0 of two, and the other end of its connection with rank 1, which is of the run and does what it likes.
    fn pair() -> (TcpExchange, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (failed, limits) = (Arc::default(), Arc::default());
        let peer = Peer::start(1, listener.accept().unwrap().0, &failed, &limits).unwrap();
        let mesh = Mesh { rank: 0, world: 2, peers: vec![None, Some(peer)], limits, failed };
        (TcpExchange { mesh: Arc::new(mesh), channel: 0 }, other)
    }

    fn frame(kind: u8, length: u64, bytes: &[u8]) -> Vec<u8> {
        [&[kind, 0], length.to_le_bytes().as_slice(), bytes].concat()
    }

    fn exchange(rank: &TcpExchange) -> Result<Vec<Bytes>, TrainingError> {
        rank.all_to_all(vec![Arc::from([0].as_slice()); 2])
    }

    #[test]
    fn what_is_no_part_of_the_run_ends_it_with_its_name() {
        let cases = [
            (frame(0, 1 << 62, &[]), "rank 1: announced 4611686018427387904 bytes where at most 1048576 were expected"),
            (frame(0, 1 << 40, &[]), "rank 1: announced 1099511627776 bytes"),
            (frame(0, 64 << 30, &[]), "rank 1: announced 68719476736 bytes"),
            (frame(0, FACTS + 1, &[]), "rank 1: announced 1048577 bytes"),
            (frame(1, 18, b"\x1b[2J\x1b]0;pwned\x07aaaa"), "rank 1: \\u{1b}[2J\\u{1b}]0;pwned\\u{7}aaaa"),
            (frame(7, 0, &[]), "rank 1: sent something of kind 7 on channel 0, which does not exist"),
            (frame(3, 0, &[]), "rank 1: has left the run"),
        ];
        for (bytes, expected) in cases {
            let ((rank, mut other), began) = (pair(), Instant::now());
            // It may be given up before it has said everything.
            let _ = other.write_all(&bytes);
            let error = exchange(&rank).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}, expected {expected}");
            assert!(began.elapsed() < PATIENCE, "{expected}");
        }
    }

    #[test]
    fn parts_that_nobody_has_asked_for_are_not_kept() {
        let ((rank, mut other), began) = (pair(), Instant::now());
        // It is given up before it has said everything.
        let _ = other.write_all(&frame(0, 4000, &[65; 4000]).repeat(50));
        let failure = loop {
            assert!(began.elapsed() < PATIENCE, "it is given up");
            if let Some(failure) = rank.failure() {
                break failure;
            }
            thread::yield_now();
        };
        assert_eq!(failure, (1, "sent more than 2 parts that nobody has asked for".to_owned()));
    }

    #[test]
    fn longer_parts_are_taken_once_all_ranks_allow_them() {
        let (rank, mut other) = pair();
        let length = 3 * FACTS;
        other.write_all(&frame(0, 0, &[])).unwrap();
        rank.allow(length).unwrap();
        let sent = thread::spawn(move || {
            other.write_all(&frame(0, length, &vec![5; length as usize])).unwrap();
            other.write_all(&frame(0, length + 1, &[])).unwrap();
            other
        });
        let parts = exchange(&rank).unwrap();
        assert_eq!((parts[1].len() as u64, parts[1][0]), (length, 5));
        let _other = sent.join().unwrap();
        assert!(exchange(&rank).unwrap_err().to_string().contains("where at most 3145728 were expected"));
    }
}
