//! Ranks as processes, on one host or on many: a connection between every two of them.
//!
//! A thread writes and a thread reads on every connection, so that nobody waits for a slow reader. A sign of life goes
//! out every two seconds whatever the process computes; a connection that is silent for twenty is given up.

use std::{
    io::{BufReader, BufWriter, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use super::{
    Launch,
    exchange::{Bytes, Exchange},
    rendezvous,
};
use crate::TrainingError;

/// Independent streams of operations over the same connections.
const CHANNELS: usize = 2;
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

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

/// What goes over a connection.
#[derive(Debug)]
enum Frame {
    Data(usize, Bytes),
    Abort(Bytes),
    Alive,
    Goodbye,
}

impl TcpExchange {
    /// Meets the other ranks of a run; two independent streams of operations.
    ///
    /// # Errors
    /// [`TrainingError::Launch`] if they do not all come within `patience`.
    pub fn connect(launch: &Launch, patience: Duration) -> Result<[Self; CHANNELS], TrainingError> {
        let streams = rendezvous::connect(launch, patience)?;
        let failed = Arc::new(Mutex::new(None));
        let peers = streams
            .into_iter()
            .enumerate()
            .map(|(rank, stream)| stream.map(|stream| Peer::start(rank, stream, &failed)).transpose());
        let peers = peers.collect::<std::io::Result<Vec<_>>>();
        let peers = peers.map_err(|e| TrainingError::Launch { message: format!("cannot use a connection: {e}") })?;
        let mesh = Arc::new(Mesh { rank: launch.rank, world: launch.world, peers, failed });
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

    fn abort(&self, message: &str) {
        for peer in self.mesh.peers.iter().flatten() {
            peer.send(Frame::Abort(Arc::from(message.as_bytes())));
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
    fn start(rank: usize, stream: TcpStream, failed: &Arc<Mutex<Option<(usize, String)>>>) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (outbox, queue) = mpsc::channel();
        let (senders, inbox): (Vec<Sender<Bytes>>, Vec<Receiver<Bytes>>) =
            (0..CHANNELS).map(|_| mpsc::channel()).unzip();
        let mut inbox = inbox.into_iter().map(Mutex::new);
        let inbox = std::array::from_fn(|_| inbox.next().unwrap_or_else(|| Mutex::new(mpsc::channel().1)));
        let to = stream.try_clone()?;
        let writer = thread::spawn(move || {
            // A failure to write shows itself to the reader as well, which tells of it.
            let _ = write(BufWriter::with_capacity(1 << 16, to), &queue);
        });
        let (from, failed) = (stream.try_clone()?, Arc::clone(failed));
        thread::spawn(move || {
            let message = match read(BufReader::with_capacity(1 << 16, from), &senders) {
                Ok(None) => None,
                Ok(Some(message)) => Some(message),
                Err(e) => Some(match e.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                        format!("gave no sign of life for {} s", PATIENCE.as_secs())
                    }
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
        let (kind, channel, bytes): (u8, usize, &[u8]) = match &frame {
            Frame::Data(channel, bytes) => (0, *channel, bytes),
            Frame::Abort(message) => (1, 0, message),
            Frame::Alive => (2, 0, &[]),
            Frame::Goodbye => (3, 0, &[]),
        };
        to.write_all(&[kind, channel as u8])?;
        to.write_all(&(bytes.len() as u64).to_le_bytes())?;
        to.write_all(bytes)?;
        to.flush()?;
    }
}

/// Reads frames until the other side says goodbye (`None`) or fails (its message).
fn read(mut from: impl Read, channels: &[Sender<Bytes>]) -> std::io::Result<Option<String>> {
    loop {
        let (mut head, mut length) = ([0u8; 2], [0u8; 8]);
        from.read_exact(&mut head)?;
        from.read_exact(&mut length)?;
        let mut bytes = vec![0u8; u64::from_le_bytes(length) as usize];
        from.read_exact(&mut bytes)?;
        match head {
            [0, channel] => {
                if let Some(sender) = channels.get(channel as usize) {
                    let _ = sender.send(Arc::from(bytes));
                }
            }
            [1, _] => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            [2, _] => {}
            _ => return Ok(None),
        }
    }
}
