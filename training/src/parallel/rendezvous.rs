//! How processes find each other: rank 0 waits at a known address, collects where the others listen, and tells all.

use std::{
    io::{Error, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::{
    Launch,
    door::{Caller, Door},
    greeting::{self, Answer, Hello, Line, Wish},
    secret::Secret,
};
use crate::TrainingError;

/// How long one address is tried.
const DIAL: Duration = Duration::from_secs(5);
/// How long is waited before rank 0 is looked for again, and after somebody else was found in its place.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

fn error(message: String) -> TrainingError {
    TrainingError::Launch { message }
}

/// A process on its way to the others.
struct Meeting<'a> {
    launch: &'a Launch,
    secret: Secret,
    end: Instant,
    /// Hears of strangers.
    tell: &'a dyn Fn(&str),
}

/// Connects every rank with every other; the streams are in order of rank, with nothing in the own place. `tell` hears of
/// connections that are not of this run, which are left alone.
///
/// # Errors
/// [`TrainingError::Launch`] if not all ranks come within `patience`, or one is turned away.
pub(super) fn connect(
    launch: &Launch,
    patience: Duration,
    tell: &dyn Fn(&str),
) -> Result<Vec<Option<TcpStream>>, TrainingError> {
    launch.check_secret()?;
    let meeting = Meeting { launch, secret: launch.key(), end: Instant::now() + patience, tell };
    let (door, places) = if launch.rank == 0 { meeting.gather()? } else { meeting.join()? };
    meeting.mesh(&door, &places)
}

impl Meeting<'_> {
    /// Listens at one of these ports, at the loopback device alone where all ranks are on this host.
    fn listen(&self, address: Option<IpAddr>, ports: impl Iterator<Item = u16>) -> std::io::Result<Door> {
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut last = Error::other("there is no port");
        for port in ports {
            match TcpListener::bind((address, port)) {
                Ok(listener) => return Door::open(listener, &self.secret),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn hello(&self, wish: Wish) -> Hello {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Hello { version, world: self.launch.world, rank: self.launch.rank, wish }
    }

    /// Why a rank of this run cannot take part in it.
    fn refusal(&self, hello: &Hello) -> Option<String> {
        let (version, world) = (env!("CARGO_PKG_VERSION"), self.launch.world);
        if hello.version != version {
            Some(format!("version {}, rank {} has {version}", hello.version, self.launch.rank))
        } else if hello.world != world {
            Some(format!("it counts {} ranks, rank {} counts {world}", hello.world, self.launch.rank))
        } else if hello.rank >= world {
            Some(format!("there are {world} ranks, numbered from 0"))
        } else {
            None
        }
    }

    /// Rank 0: collects all others.
    fn gather(&self) -> Result<(Door, Vec<(IpAddr, u16)>), TrainingError> {
        let (launch, own) = (self.launch, self.launch.loopback());
        let door = self.listen(own, launch.port_range()).map_err(|e| {
            let (first, last) = (launch.port, launch.port_range().last().unwrap_or(launch.port));
            let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
            error(match e.kind() {
                ErrorKind::AddrInUse => format!("port {range} is taken; set MASTER_PORT to a free one on all ranks"),
                _ => format!("cannot listen at port {range}: {e}"),
            })
        })?;
        let mut ranks: Vec<Option<(u16, Line)>> = (0..launch.world).map(|_| None).collect();
        let mut strange = String::new();
        while ranks.iter().skip(1).any(Option::is_none) {
            let (hello, mut line) = match door.next(self.end) {
                Some(Caller::Rank(hello, line)) => (hello, line),
                Some(Caller::Stranger(what)) => {
                    (self.tell)(&what);
                    strange = format!("; {what}");
                    continue;
                }
                None => {
                    let missing = (1..launch.world).filter(|&rank| ranks[rank].is_none());
                    let missing = missing.map(|rank| rank.to_string()).collect::<Vec<_>>().join(", ");
                    return Err(error(format!("timed out waiting for rank {missing}{strange}")));
                }
            };
            // One that was too slow for its own patience calls again.
            let is_there = |rank: usize| rank == 0 || ranks[rank].as_ref().is_some_and(|(_, line)| !line.is_gone());
            let refusal = match (self.refusal(&hello), hello.wish) {
                (None, Wish::Places { port }) if !is_there(hello.rank) => {
                    ranks[hello.rank] = Some((port, line));
                    continue;
                }
                // It is early, or late: of a start that is over.
                (None, Wish::Exchange) => continue,
                (refusal, _) => refusal.unwrap_or_else(|| "another process already has this rank".to_owned()),
            };
            let message = format!("rank {} is refused: {refusal}", hello.rank);
            for line in ranks.iter_mut().flatten().map(|(_, line)| line).chain([&mut line]) {
                let _ = line.send(&Answer::Refused(message.clone()));
            }
            return Err(error(message));
        }
        let left = |e: Error| error(format!("a rank left at the start: {e}"));
        // The others know the address of rank 0 already.
        let mut places = vec![(IpAddr::V4(Ipv4Addr::UNSPECIFIED), door.port())];
        for (port, line) in ranks.iter().flatten() {
            places.push((line.stream.peer_addr().map_err(left)?.ip(), *port));
        }
        for (_, line) in ranks.iter_mut().flatten() {
            line.send(&Answer::Places(places.clone())).map_err(left)?;
        }
        Ok((door, places))
    }

    /// Another rank: asks rank 0 where everybody is.
    fn join(&self) -> Result<(Door, Vec<(IpAddr, u16)>), TrainingError> {
        let (launch, rank) = (self.launch, self.launch.rank);
        let own = launch.loopback().map(|address| match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
        let door = self.listen(own, [0].into_iter()).map_err(|e| error(format!("cannot listen: {e}")))?;
        // What was found last in the place of rank 0, which may be gone again.
        let mut stranger = String::new();
        loop {
            let (mut why, mut pause) = (String::new(), AGAIN.0);
            let names = launch.addresses.iter().flat_map(|name| launch.port_range().map(move |port| (name, port)));
            for (name, port) in names {
                let found = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                for at in found.as_deref().unwrap_or_default() {
                    match self.ask(*at, door.port()) {
                        Ok(Answer::Places(places)) if places.len() == launch.world => return Ok((door, places)),
                        Ok(Answer::Places(places)) => {
                            let (found, expected) = (places.len(), launch.world);
                            return Err(error(format!("rank 0 knows of {found} ranks, expected {expected}")));
                        }
                        Ok(Answer::Refused(reason)) => return Err(error(format!("rank {rank}: {reason}"))),
                        Err(e) => {
                            // Who refuses a connection is not there yet.
                            pause = if e.kind() == ErrorKind::ConnectionRefused { pause } else { AGAIN.1 };
                            why = format!("{name}:{port}: {e}");
                            if e.kind() == ErrorKind::Other {
                                stranger = format!("; found at {at}: {e}");
                            }
                        }
                    }
                }
                if let Err(e) = found {
                    why = format!("{name}:{port}: {e}");
                }
            }
            if Instant::now() >= self.end {
                let why = why + &stranger;
                return Err(error(format!("rank {rank} cannot reach rank 0 at {why}; set MASTER_ADDR to its host")));
            }
            std::thread::sleep(pause);
        }
    }

    /// Asks rank 0, if it is there, where all ranks are; this one listens at `port`. The answer comes when all have asked.
    fn ask(&self, at: SocketAddr, port: u16) -> std::io::Result<Answer> {
        let mut line = self.dial(at, Wish::Places { port })?;
        let mut answer = line.receive(1024 + 64 * self.launch.world, self.end)?;
        if let Answer::Places(places) = &mut answer
            && let Some(first) = places.first_mut()
        {
            first.0 = at.ip();
        }
        Ok(answer)
    }

    fn dial(&self, at: SocketAddr, wish: Wish) -> std::io::Result<Line> {
        let left = self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(&at, left.min(DIAL))?;
        stream.set_nodelay(true)?;
        greeting::call(stream, &self.secret, self.hello(wish), self.end)
    }

    /// Every rank calls those below it and is called by those above.
    fn mesh(&self, door: &Door, places: &[(IpAddr, u16)]) -> Result<Vec<Option<TcpStream>>, TrainingError> {
        let (rank, world) = (self.launch.rank, self.launch.world);
        let mut lines: Vec<Option<Line>> = (0..world).map(|_| None).collect();
        for (other, place) in places.iter().enumerate().take(rank) {
            let line = loop {
                match self.dial(SocketAddr::from(*place), Wish::Exchange) {
                    Err(_) if Instant::now() + AGAIN.0 < self.end => std::thread::sleep(AGAIN.0),
                    result => break result,
                }
            };
            let (address, port) = place;
            lines[other] =
                Some(line.map_err(|e| error(format!("cannot reach rank {other} at {address}:{port}: {e}")))?);
        }
        while lines.iter().skip(rank + 1).any(Option::is_none) {
            match door.next(self.end) {
                None => return Err(error("timed out waiting for the ranks above this one".to_owned())),
                Some(Caller::Stranger(what)) => (self.tell)(&what),
                Some(Caller::Rank(hello, line)) => {
                    let above = self.refusal(&hello).is_none() && hello.rank > rank;
                    if above && matches!(hello.wish, Wish::Exchange) {
                        lines[hello.rank] = Some(line);
                    }
                }
            }
        }
        Ok(lines.into_iter().map(|line| line.map(|line| line.stream)).collect())
    }
}
