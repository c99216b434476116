//! How ranks meet while others call too: strangers that say nothing, too much or something else, and impostors.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use harness_training::{
    TrainingError,
    parallel::{Exchange as _, Launch, Secret, TcpExchange},
};

/// How long ranks look for each other: much longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// What ranks send first.
const MARK: &[u8] = b"harness ranks 1\n";

/// A port that was free a moment ago, as is the one after it.
fn port() -> u16 {
    loop {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        if TcpListener::bind(("127.0.0.1", port.saturating_add(1))).is_ok() {
            return port;
        }
    }
}

fn launch(rank: usize, world: usize, port: u16) -> Launch {
    let (addresses, job, secret) = (vec!["127.0.0.1".to_owned()], "test".to_owned(), Some(Secret::of("test")));
    Launch { rank, world, local_rank: None, addresses, port, ports: 1, job, secret }
}

/// What was told of strangers.
type Told = Arc<Mutex<Vec<String>>>;

/// One rank: what it gets from all when everyone gives its number.
fn meet(launch: Launch, told: &Told) -> thread::JoinHandle<Result<Vec<u8>, TrainingError>> {
    meet_within(launch, told, PATIENCE)
}

fn meet_within(launch: Launch, told: &Told, patience: Duration) -> thread::JoinHandle<Result<Vec<u8>, TrainingError>> {
    let told = Arc::clone(told);
    thread::spawn(move || {
        let tell = |text: &str| told.lock().expect("texts").push(text.to_owned());
        let [control, _] = TcpExchange::connect(&launch, patience, &tell)?;
        let parts = control.all_to_all(vec![Arc::from([launch.rank as u8].as_slice()); launch.world])?;
        Ok(parts.iter().map(|part| part[0]).collect())
    })
}

/// Calls a port as soon as somebody listens there.
fn dial(port: u16) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        thread::yield_now();
    }
}

fn frame(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn strangers_neither_block_nor_end_a_start_and_are_named() {
    let (port, told) = (port(), Told::default());
    let first = meet(launch(0, 3, port), &told);
    let silent: Vec<TcpStream> = (0..20).map(|_| dial(port)).collect();
    let wish = r#"{"program":"harness train","version":"0.1.0","job":"test","world":3,"rank":1,"port":1}"#;
    let says = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [MARK, &[0xff; 200]].concat(),
        [MARK, &2000u32.to_le_bytes()].concat(),
        [MARK, &10u32.to_le_bytes(), &[7; 42]].concat(),
        frame(wish),
        frame(&"[".repeat(900_000)),
        b"\x1b[2J\x1b]0;pwned\x07aaaaaaaaaaa".to_vec(),
        b"har".to_vec(),
    ];
    let babbling = says.map(|bytes| {
        let mut stream = dial(port);
        // It may be turned away before it has said everything.
        let _ = stream.write_all(&bytes);
        stream
    });
    drop(dial(port));
    let others = [1, 2].map(|rank| meet(launch(rank, 3, port), &told));
    for rank in [first].into_iter().chain(others) {
        assert_eq!(rank.join().expect("no panic").expect("all ranks"), [0, 1, 2]);
    }
    drop((silent, babbling));
    let told = told.lock().expect("texts").join("\n");
    for named in [
        "a connection from 127.0.0.1:",
        "began with \"GET / HTTP/1.1\\r\\n\"",
        "announced 4294967295 bytes where a rank sends at most 1024",
        "does not have the secret of this run",
        "began with \"\\u{1b}[2J\\u{1b}]0;pwned",
    ] {
        assert!(told.contains(named), "{named}: {told}");
    }
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
}

#[test]
fn those_that_say_nothing_or_little_are_dropped_after_a_moment() {
    let (port, told) = (port(), Told::default());
    let first = meet(launch(0, 2, port), &told);
    let (mut silent, mut slow) = (dial(port), dial(port));
    let dribble = slow.try_clone().expect("a handle");
    let dribbling = thread::spawn(move || {
        let mut dribble = dribble;
        let tick = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tick = TcpStream::connect(tick.local_addr().expect("an address")).expect("a connection");
        tick.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        // A byte now and then, so that no single wait is long.
        for byte in MARK.iter().chain(&[0; 10_000]) {
            let mut tick = &tick;
            let _ = tick.read(&mut [0]);
            if dribble.write_all(&[*byte]).is_err() {
                break;
            }
        }
    });
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut said = vec![];
        let end = stream.read_to_end(&mut said);
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "they are dropped");
        assert!(said.starts_with(MARK), "they hear who is there, and nothing more: {said:?}");
        assert_eq!(said.len(), MARK.len() + 32);
    }
    dribbling.join().expect("no panic");
    let second = meet(launch(1, 2, port), &told);
    assert_eq!(first.join().expect("no panic").expect("both"), [0, 1]);
    assert_eq!(second.join().expect("no panic").expect("both"), [0, 1]);
    assert!(told.lock().expect("texts").join("\n").contains("did not say within 1 s who it is"));
}

#[test]
fn ranks_with_another_secret_are_strangers() {
    let (port, told) = (port(), Told::default());
    let patience = Duration::from_secs(4);
    let first = meet_within(launch(0, 2, port), &told, patience);
    let other = Launch { secret: Some(Secret::of("another")), ..launch(1, 2, port) };
    let other = meet_within(other, &told, patience);
    let error = first.join().expect("no panic").expect_err("nobody comes").to_string();
    assert!(error.contains("timed out waiting for rank 1; a connection from 127.0.0.1:"), "{error}");
    assert!(error.contains("does not have the secret of this run"), "{error}");
    let error = other.join().expect("no panic").expect_err("nobody answers").to_string();
    assert!(error.contains("cannot reach rank 0") && error.contains("another secret"), "{error}");
    assert_eq!(told.lock().expect("texts").len(), 1, "who calls again is told of once");
}

#[test]
fn what_a_rank_has_said_is_of_no_use_to_others() {
    let (port, told) = (port(), Told::default());
    let first = meet(launch(0, 3, port), &told);
    // Someone between the ranks, who hands on what they say and keeps it.
    let between = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = meet(launch(1, 3, between.local_addr().expect("an address").port()), &told);
    let (caller, called) = (between.accept().expect("rank 1").0, dial(port));
    let hand = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
        thread::spawn(move || {
            let (mut kept, mut bytes) = (vec![], [0; 4096]);
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                kept.extend_from_slice(&bytes[..length]);
                if to.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
            kept
        })
    };
    let (to, back) = (hand(&caller, &called), hand(&called, &caller));
    let third = meet(launch(2, 3, port), &told);
    for rank in [first, second, third] {
        assert_eq!(rank.join().expect("no panic").expect("all ranks"), [0, 1, 2], "a line is handed on as it is");
    }
    let (said, _) = (to.join().expect("no panic"), back.join().expect("no panic"));
    assert!(said.starts_with(MARK) && !said.windows(4).any(|bytes| bytes == b"test"), "no secret is said");
    // The same words to the same rank of the same run, at another start.
    let again = meet_within(launch(0, 3, port), &told, Duration::from_secs(4));
    let mut impostor = dial(port);
    impostor.write_all(&said).expect("a line");
    let error = again.join().expect("no panic").expect_err("nobody comes").to_string();
    assert!(error.contains("waiting for rank 1, 2;") && error.contains("does not have the secret"), "{error}");
}

#[test]
fn who_listens_in_the_place_of_rank_0_is_passed_over() {
    let says: [&[u8]; 4] = [b"", b"220 mail.example ESMTP \x1b[2J\r\n", MARK, &[MARK, [3; 64].as_slice()].concat()];
    for bytes in says {
        let (port, told) = (port(), Told::default());
        let squatter = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let bytes = bytes.to_vec();
        let _answers = thread::spawn(move || {
            let mut held: Vec<TcpStream> = vec![];
            while let Ok((mut stream, _)) = squatter.accept() {
                let _ = stream.write_all(&bytes);
                held.push(stream);
            }
        });
        let ranks = [0, 1].map(|rank| meet(Launch { ports: 2, ..launch(rank, 2, port) }, &told));
        for rank in ranks {
            assert_eq!(rank.join().expect("no panic").expect("both ranks"), [0, 1]);
        }
    }
}

#[test]
fn an_impostor_in_the_place_of_rank_0_is_named_and_escaped() {
    let port = port();
    let squatter = TcpListener::bind(("127.0.0.1", port)).expect("a port");
    let _answers = thread::spawn(move || {
        while let Ok((mut stream, _)) = squatter.accept() {
            let _ = stream.write_all(b"\x1b[2J\x1b]0;pwned\x07aaaaaaaaaaa");
        }
    });
    let second = meet_within(launch(1, 2, port), &Told::default(), Duration::from_secs(2));
    let error = second.join().expect("no panic").expect_err("no rank 0").to_string();
    assert!(error.contains("began with \"\\u{1b}[2J") && !error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn ranks_of_one_host_listen_to_that_host_alone() {
    let (port, told) = (port(), Told::default());
    let first = meet(launch(0, 2, port), &told);
    drop(dial(port));
    // A listener for all addresses would take this one too.
    let other = TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], port)));
    assert!(other.is_ok(), "rank 0 listens at 127.0.0.1 only: {other:?}");
    let second = meet(launch(1, 2, port), &told);
    for rank in [first, second] {
        assert_eq!(rank.join().expect("no panic").expect("both ranks"), [0, 1]);
    }
}

#[test]
fn ranks_that_any_host_can_call_need_a_secret() {
    let open = Launch { addresses: vec!["10.0.0.1".into()], job: String::new(), secret: None, ..launch(0, 2, 1) };
    let error = meet(open, &Told::default()).join().expect("no panic").expect_err("refused").to_string();
    assert!(error.contains("meet at 10.0.0.1") && error.contains("set HARNESS_RANK_SECRET"), "{error}");
}
