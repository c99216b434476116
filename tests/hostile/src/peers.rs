//! Who answers on the network: servers of models, and processes that claim to be ranks of a training run.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{LazyLock, Mutex, PoisonError},
    thread,
    time::Duration,
};

use harness_core::{ChatMessage, ChatRole, Control, Digest, LanguageModel as _, Request, Sampling};
use harness_http::{Api, Endpoint, EndpointOptions, EndpointSpec, chat_prompt};
use harness_store::{MemoryStore, RunStore as _};
use harness_training::parallel::{Secret, strangers};

/// A server that gives one answer to whatever is asked.
struct Server {
    address: SocketAddr,
    answer: Mutex<Vec<u8>>,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = SERVER.give(stream);
        }
    });
    Server { address, answer: Mutex::default() }
});

impl Server {
    /// Reads a request to its end, answers and hangs up.
    fn give(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut request, mut buffer) = (vec![], [0; 4096]);
        loop {
            let head = request.windows(4).position(|end| end == b"\r\n\r\n");
            if head.is_some_and(|head| request.len() >= head + 4 + length(&request[..head])) {
                break;
            }
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => request.extend_from_slice(&buffer[..read]),
            }
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.write_all(&answer)
    }
}

/// The length that the head of a request announces.
fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0)
}

/// An answer of a server to what the first byte says: `c` a chat, `t` a text to go on with, `l` one to be scored, `r` one to
/// be scored whole. It is whole where it begins with `HTTP/`, else the body of a successful one. What is taken from it can
/// be stored.
pub(crate) fn answers(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let text = "The sky is".to_owned();
    let sampling = Sampling { max_new_tokens: 4, top_logprobs: Some(2), ..Sampling::default() };
    let generate = |prompt: String| Request::Generate { prompt, stop: vec!["stop".into()], sampling };
    let (api, request) = match kind {
        b'c' => (Api::Chat, generate(chat_prompt(&[ChatMessage::new(ChatRole::User, "a")]))),
        b't' => (Api::Completions, generate(text)),
        b'l' => (Api::Completions, Request::LogLikelihood { context: text, continuation: " blue".into() }),
        b'r' => (Api::Completions, Request::RollingLogLikelihood { text: text + " blue" }),
        _ => return,
    };
    let mut answer = vec![];
    if !bytes.starts_with(b"HTTP/") {
        let length = bytes.len();
        answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n").into();
    }
    answer.extend_from_slice(bytes);
    *SERVER.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    ask(api, request);
}

fn ask(api: Api, request: Request) {
    let url = format!("http://{}/v1", SERVER.address);
    let spec = EndpointSpec { model: "m".into(), url: url.clone() };
    let (timeout, longest_wait) = (Duration::from_secs(5), Duration::ZERO);
    let options = EndpointOptions { api, timeout, longest_wait, retries: 0, ..EndpointOptions::new(spec) };
    let endpoint = Endpoint::new(options).expect("an endpoint");
    let (store, key) = (MemoryStore::new(), request.key());
    let result = endpoint.answer(&[request], &mut |_, response| {
        store.append(&Digest::of("m"), &key, &response).expect("an answer can be stored");
        Control::Continue
    });
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
    let cost = endpoint.usage().cost;
    assert!(cost == 0.0, "a cost of {cost} without prices");
}

/// What another process sends: `f` and frames; `g` and a greeting, `s` and what one that knows the secret says of itself;
/// `w` and what a listener answers.
pub(crate) fn frames(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let secret = Secret::of("the run's");
    match kind {
        b'f' => {
            let mut rest = bytes;
            while let Ok(frame) = strangers::frame(&mut rest) {
                let mut written = frame.as_slice();
                assert_eq!(
                    strangers::frame(&mut written).ok(),
                    Some(frame.clone()),
                    "written again, a frame is another"
                );
            }
        }
        b'g' => {
            let (mut caller, called) = line();
            caller.write_all(bytes).expect("bytes on their way");
            drop(caller);
            strangers::answer(called, &secret).expect_err("nobody knows the secret");
        }
        b's' => {
            let (mut caller, called) = line();
            let theirs = thread::spawn({
                let (bytes, secret) = (bytes.to_vec(), secret.clone());
                move || {
                    let greeting = strangers::sealed(&mut caller, &secret, &bytes);
                    let _ = caller.write_all(&greeting);
                }
            });
            let _ = strangers::answer(called, &secret);
            theirs.join().expect("the caller");
        }
        b'w' => {
            let (caller, mut called) = line();
            called.write_all(bytes).expect("bytes on their way");
            called.shutdown(std::net::Shutdown::Write).expect("the end");
            strangers::call(caller, &secret).expect_err("the listener does not know the secret");
        }
        _ => {}
    }
}

/// Both ends of a connection.
fn line() -> (TcpStream, TcpStream) {
    static LISTENER: LazyLock<TcpListener> = LazyLock::new(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let caller = TcpStream::connect(LISTENER.local_addr().expect("an address")).expect("a connection");
    (caller, LISTENER.accept().expect("a connection").0)
}
