//! How processes find each other: rank 0 waits at a known address, collects where the others listen, and tells all.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Launch;
use crate::TrainingError;

/// What a process says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    program: String,
    version: String,
    job: String,
    world: usize,
    rank: usize,
    /// Where it listens.
    port: u16,
}

/// What rank 0 answers: where everybody listens, or why this one is turned away.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Peers(Vec<(IpAddr, u16)>),
    Refused(String),
}

const PROGRAM: &str = "harness train";
/// Longest greeting that is read.
const LONGEST: usize = 1 << 20;

fn error(message: String) -> TrainingError {
    TrainingError::Launch { message }
}

fn send(stream: &mut TcpStream, value: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_vec(value)?;
    stream.write_all(&(text.len() as u32).to_le_bytes())?;
    stream.write_all(&text)?;
    stream.flush()
}

fn receive<T: DeserializeOwned>(stream: &mut TcpStream) -> std::io::Result<T> {
    let mut length = [0u8; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(std::io::Error::other("not a greeting of this program"));
    }
    let mut text = vec![0u8; length];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Connects every rank with every other; the streams are in order of rank, with nothing in the own place.
///
/// # Errors
/// [`TrainingError::Launch`] if not all ranks come within `patience`, or one is turned away.
pub(super) fn connect(launch: &Launch, patience: Duration) -> Result<Vec<Option<TcpStream>>, TrainingError> {
    let end = Instant::now() + patience;
    let (listener, peers) = if launch.rank == 0 { gather(launch, end)? } else { join(launch, end)? };
    mesh(launch, &listener, &peers, end)
}

/// Accepts one connection before `end`.
fn accept(listener: &TcpListener, end: Instant, waiting_for: &dyn Fn() -> String) -> Result<TcpStream, TrainingError> {
    listener.set_nonblocking(true).map_err(|e| error(format!("cannot listen: {e}")))?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(left)));
                ready.map_err(|e| error(format!("cannot use a connection: {e}")))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() >= end {
                    return Err(error(format!("timed out waiting for {}", waiting_for())));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(error(format!("cannot accept a connection: {e}"))),
        }
    }
}

/// Rank 0: collects all others.
fn gather(launch: &Launch, end: Instant) -> Result<(TcpListener, Vec<(IpAddr, u16)>), TrainingError> {
    let ports = launch.port..=launch.port.saturating_add(launch.ports - 1);
    let listener = ports.clone().find_map(|port| TcpListener::bind(("0.0.0.0", port)).ok()).ok_or_else(|| {
        let (first, last) = (ports.start(), ports.end());
        let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
        error(format!("port {range} is taken; set MASTER_PORT to a free one on all ranks"))
    })?;
    let own = listener.local_addr().map_err(|e| error(format!("cannot listen: {e}")))?.port();
    let mut places: Vec<Option<(IpAddr, u16)>> = vec![None; launch.world];
    // The others know the address of rank 0 already.
    places[0] = Some((IpAddr::from([0, 0, 0, 0]), own));
    let mut streams = vec![];
    while places.iter().any(Option::is_none) {
        let missing = || {
            let ranks = places.iter().enumerate().filter(|(_, place)| place.is_none());
            format!("rank {}", ranks.map(|(rank, _)| rank.to_string()).collect::<Vec<_>>().join(", "))
        };
        let mut stream = accept(&listener, end, &missing)?;
        // Whoever says something else is not of this run; it is left alone.
        let Ok(hello) = receive::<Hello>(&mut stream) else { continue };
        let Ok(address) = stream.peer_addr() else { continue };
        let refusal = if hello.program != PROGRAM || hello.job != launch.job {
            Some("another run waits at this address".to_owned())
        } else if hello.version != env!("CARGO_PKG_VERSION") {
            Some(format!("version {}, rank 0 has {}", hello.version, env!("CARGO_PKG_VERSION")))
        } else if hello.world != launch.world {
            Some(format!("it counts {} ranks, rank 0 counts {}", hello.world, launch.world))
        } else if places.get(hello.rank).is_none_or(Option::is_some) {
            Some("another process already has this rank".to_owned())
        } else {
            None
        };
        match refusal {
            None => {
                places[hello.rank] = Some((address.ip(), hello.port));
                streams.push(stream);
            }
            Some(reason) => {
                let _ = send(&mut stream, &Answer::Refused(reason.clone()));
                if hello.program == PROGRAM && hello.job == launch.job {
                    let message = format!("rank {} is refused: {reason}", hello.rank);
                    for stream in &mut streams {
                        let _ = send(stream, &Answer::Refused(message.clone()));
                    }
                    return Err(error(message));
                }
            }
        }
    }
    let peers: Vec<(IpAddr, u16)> = places.into_iter().flatten().collect();
    for stream in &mut streams {
        send(stream, &Answer::Peers(peers.clone())).map_err(|e| error(format!("a rank left at the start: {e}")))?;
    }
    Ok((listener, peers))
}

/// Another rank: asks rank 0 where everybody is.
fn join(launch: &Launch, end: Instant) -> Result<(TcpListener, Vec<(IpAddr, u16)>), TrainingError> {
    let listener = TcpListener::bind(("0.0.0.0", 0)).map_err(|e| error(format!("cannot listen: {e}")))?;
    let port = listener.local_addr().map_err(|e| error(format!("cannot listen: {e}")))?.port();
    let hello = Hello {
        program: PROGRAM.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        job: launch.job.clone(),
        world: launch.world,
        rank: launch.rank,
        port,
    };
    loop {
        let mut why = String::new();
        let ports = launch.port..=launch.port.saturating_add(launch.ports - 1);
        for (address, port) in
            launch.addresses.iter().flat_map(|address| ports.clone().map(move |port| (address, port)))
        {
            let answer = dial((address.as_str(), port), end).and_then(|mut stream| {
                send(&mut stream, &hello)?;
                Ok((receive::<Answer>(&mut stream)?, stream.peer_addr()?.ip()))
            });
            match answer {
                Ok((Answer::Peers(mut peers), first)) => {
                    if let Some(place) = peers.first_mut() {
                        place.0 = first;
                    }
                    return Ok((listener, peers));
                }
                Ok((Answer::Refused(reason), _)) => return Err(error(format!("rank {}: {reason}", launch.rank))),
                Err(e) => why = format!("{address}:{port}: {e}"),
            }
        }
        if Instant::now() >= end {
            let rank = launch.rank;
            return Err(error(format!("rank {rank} cannot reach rank 0 at {why}; set MASTER_ADDR to its host")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn dial(address: (&str, u16), end: Instant) -> std::io::Result<TcpStream> {
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut last = std::io::Error::other("the address has no host");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left.min(Duration::from_secs(5))) {
            Ok(stream) => {
                stream.set_read_timeout(Some(left))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Every rank calls those below it and is called by those above.
fn mesh(
    launch: &Launch,
    listener: &TcpListener,
    peers: &[(IpAddr, u16)],
    end: Instant,
) -> Result<Vec<Option<TcpStream>>, TrainingError> {
    let mut streams: Vec<Option<TcpStream>> = (0..launch.world).map(|_| None).collect();
    for (rank, (address, port)) in peers.iter().enumerate().take(launch.rank) {
        let stream = dial((&address.to_string(), *port), end).and_then(|mut stream| {
            send(&mut stream, &(launch.rank, &launch.job))?;
            Ok(stream)
        });
        streams[rank] = Some(stream.map_err(|e| error(format!("cannot reach rank {rank} at {address}:{port}: {e}")))?);
    }
    while streams.iter().skip(launch.rank + 1).any(Option::is_none) {
        let mut stream = accept(listener, end, &|| "the ranks above this one".to_owned())?;
        let Ok((rank, job)) = receive::<(usize, String)>(&mut stream) else { continue };
        if job == launch.job && rank > launch.rank && rank < launch.world {
            streams[rank] = Some(stream);
        }
    }
    Ok(streams)
}
