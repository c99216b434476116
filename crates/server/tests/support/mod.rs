//! A server over the embedded model on a socket, and a client of bare requests.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, OnceLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use harness_core::Stop;
use harness_engine::{Limits, LoadedBase, LocalModel, ModelOptions};
use harness_server::{ServedModel, Server, ServerError, ServerOptions};
use harness_test_support::workspace_root;
use serde_json::{Value, json};

/// A running server; it ends with the value.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// The embedded model.
pub(crate) fn tiny(limits: Limits) -> Arc<LoadedBase> {
    static USUAL: OnceLock<Arc<LoadedBase>> = OnceLock::new();
    let load = || {
        let options = ModelOptions { limits, ..ModelOptions::default() };
        Arc::new(LoadedBase::load(&workspace_root().join("models/tiny"), options).unwrap())
    };
    if limits == Limits::default() { Arc::clone(USUAL.get_or_init(load)) } else { load() }
}

impl Running {
    /// Serves the embedded model under the names `base` and `twin`, on any free port.
    pub(crate) fn start(options: ServerOptions, limits: Limits) -> Self {
        let base = tiny(limits);
        let model = |name: &str| ServedModel {
            name: name.to_owned(),
            model: LocalModel::new(Arc::clone(&base)),
            base: None,
            think_end: None,
        };
        let server = Server::new(vec![model("base"), model("twin")], ServerOptions { port: 0, ..options }).unwrap();
        let (stop, (sender, receiver)) = (Stop::default(), mpsc::channel());
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || server.run(&stop, |address| sender.send(address).unwrap()))
        };
        Self { address: receiver.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// Serves with the usual options.
    pub(crate) fn usual() -> Self {
        Self::start(ServerOptions::default(), Limits::default())
    }

    /// Sends a request and returns its connection.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).unwrap();
        // The server may refuse a long body before it has read it.
        let _ = connection.write_all(body.as_bytes());
        connection
    }

    /// A request and its whole answer: the status and the body.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut line = String::new();
        // In a burst of connections the system may reset some before the server sees them.
        let mut answer = (0..3)
            .find_map(|_| {
                let mut answer = BufReader::new(self.send(method, path, headers, body));
                match answer.read_line(&mut line) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset && line.is_empty() => None,
                    read => Some(read.map(|_| answer).unwrap()),
                }
            })
            .expect("a connection");
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut chunked = false;
        loop {
            line.clear();
            answer.read_line(&mut line).unwrap();
            chunked |= line.to_lowercase().starts_with("transfer-encoding: chunked");
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![];
        if chunked {
            loop {
                line.clear();
                answer.read_line(&mut line).unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                answer.read_exact(&mut chunk).unwrap();
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else {
            answer.read_to_end(&mut body).unwrap();
        }
        (status, String::from_utf8(body).unwrap())
    }

    /// Posts JSON; the status and the answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask("POST", path, &[("Content-Type", "application/json")], &body.to_string());
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Posts JSON that is to be answered.
    pub(crate) fn answer(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Gets a text.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, &[], "")
    }

    /// The pieces of a streamed answer; the last line says that it is done.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let (status, text) = self.ask("POST", path, &[("Content-Type", "application/json")], &body.to_string());
        assert_eq!(status, 200, "{text}");
        let mut pieces: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(pieces.pop(), Some("[DONE]"), "{text}");
        pieces.into_iter().map(|piece| serde_json::from_str(piece).unwrap()).collect()
    }

    /// A number of the metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not told: {text}")).parse().unwrap()
    }

    /// Looks at a number of the metrics until it is as expected.
    pub(crate) fn until(&self, name: &str, expected: u64) {
        for _ in 0..2000 {
            if self.metric(name) == expected {
                return;
            }
        }
        panic!("{name} is {} and not {expected}", self.metric(name));
    }

    /// Asks the server to end and waits until it has.
    pub(crate) fn end(mut self) -> Result<(), ServerError> {
        self.stop.request();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The text of a choice that came in pieces.
pub(crate) fn joined(pieces: &[Value], index: usize) -> String {
    let choices = pieces.iter().flat_map(|piece| piece["choices"].as_array().unwrap());
    let of = choices.filter(|choice| choice["index"] == json!(index));
    of.filter_map(|choice| choice["text"].as_str().or(choice["delta"]["content"].as_str())).collect()
}
