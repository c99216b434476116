//! `harness serve` and `harness bench serve`, with the program itself and lm-eval as clients.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use harness_test_support::{Outcome, World, python_with, skipped, workspace_root};
use serde_json::{Value, json};

use super::world;

/// A server of the program on a port that was free; it ends with the value.
struct Serving {
    child: Child,
    /// Base of its API.
    url: String,
}

impl Serving {
    fn start(world: &World, models: &[&str]) -> Self {
        let args = [&["serve", "--port", "0", "--json", "--quiet"], models].concat();
        let mut child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(told["models"], json!(models));
        Self { child, url: told["url"].as_str().unwrap().to_owned() }
    }

    /// The name by which commands know one of its models.
    fn model(&self, name: &str) -> String {
        format!("openai:{name}@{}", self.url)
    }

    /// Sends a request, whose answer is not read yet.
    fn post(&self, path: &str, body: &Value) -> TcpStream {
        let address = self.url.trim_start_matches("http://").trim_end_matches("/v1");
        let mut connection = TcpStream::connect(address).unwrap();
        let body = body.to_string();
        write!(
            connection,
            "POST /v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        connection
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    fn end(mut self) -> Outcome {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Outcome { code, stdout: String::new(), stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn served_models_answer_as_they_do_without_a_server() {
    let world = world();
    let server = Serving::start(&world, &["base", "a4"]);
    for model in ["base", "a4"] {
        let here = ["generate", model, "-p", "Hello", "--chat", "--max-new-tokens", "12"];
        let there = ["generate", &server.model(model), "-p", "Hello", "--chat", "--max-new-tokens", "12"];
        assert_eq!(world.run(&here).expect(0).stdout, world.run(&there).expect(0).stdout, "{model}");
    }
    assert_eq!(server.end().expect(0).stderr, "");
}

#[test]
fn what_is_in_flight_is_finished_before_the_end() {
    let world = world();
    let server = Serving::start(&world, &["base"]);
    let ask =
        json!({"model": "base", "prompt": "Hello", "max_tokens": 200, "temperature": 50, "seed": 1, "stream": true});
    let mut answer = BufReader::new(server.post("/completions", &ask));
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        answer.read_line(&mut line).unwrap();
    }
    server.end().expect(0);
    let mut rest = String::new();
    answer.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"") && rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn a_load_is_measured() {
    let world = world();
    let server = Serving::start(&world, &["base"]);
    let model = server.model("base");
    let plan = ["--requests", "60", "--concurrency", "20", "--prompt-tokens", "30", "--new-tokens", "8"];
    let call = [&["bench", "serve", &model], &plan[..]].concat();
    let outcome = world.run(&call).expect(0);
    for part in ["60 of 60 streams answered, 20 at once", "1800 prompt tokens", "time to first token", "whole request"]
    {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    let object = world.run(&[&call[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((&object["answered"], &object["failures"]), (&json!(60), &json!([])));
    let first = &object["first_token_ms"];
    assert!(first["median"].as_f64().unwrap() <= first["p99"].as_f64().unwrap());
    let missing = server.model("nobody");
    let outcome = world.run(&["bench", "serve", &missing, "-n", "3"]).expect(1);
    assert!(outcome.stdout.contains("0 of 3 streams answered"), "{}", outcome.stdout);
    outcome.says(&["3 streams of 3 failed", "nobody"]);
}

#[test]
fn wrong_calls_are_refused() {
    let world = world();
    world.run(&["serve", "base", "a4", "base", "--port", "0"]).expect(2).says(&["base is to be served twice"]);
    world.run(&["serve", "base", "--host", "0.0.0.0", "--port", "0"]).expect(2).says(&["HARNESS_API_KEY"]);
    world.run(&["serve", "openai:m@http://127.0.0.1:9/v1"]).expect(2).says(&["m is behind a server already"]);
    world.run(&["serve", "base", "--queue", "0"]).expect(2).says(&["--queue 0: expected at least 1"]);
    world.run(&["serve", "base", "--port", "99999"]).expect(2).says(&["99999", "expected a port from 0 to 65535"]);
    world.run(&["bench", "serve", "base"]).expect(2).says(&["base is on this machine", "openai:base@http"]);
    let mut command = world.command(&["serve", "base", "--port", "0"]);
    let outcome = Outcome::new(&command.env("HARNESS_API_KEY", "a b").output().unwrap());
    assert!(!outcome.clone().expect(2).says(&["HARNESS_API_KEY"]).stderr.contains("a b"));
    let server = Serving::start(&world, &["base"]);
    let port = server.url.trim_end_matches("/v1").rsplit(':').next().unwrap();
    world.run(&["serve", "base", "--port", port]).expect(1).says(&["cannot listen on 127.0.0.1"]);
}

/// Names of lm-eval's metrics with their values.
fn metrics(results: &Value, task: &str) -> Vec<(String, f64)> {
    let task = results[task].as_object().unwrap_or_else(|| panic!("no {task} in {results}"));
    let number = |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()?));
    let told = |name: &str| name.contains(',') && !name.contains("stderr");
    task.iter().filter_map(number).filter(|(name, _)| told(name)).collect()
}

/// What the program itself writes of tasks in lm-eval's form.
fn own_results(world: &World, out: &str, call: &[&str]) -> Value {
    let call = [&["run", "base", "--lm-eval-output", out, "--bootstrap-iters", "0"], call].concat();
    world.run(&call).expect(0);
    let folders = std::fs::read_dir(world.path(out)).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|e| e.unwrap().path()).collect();
    let is_result = |path: &&std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("results_");
    let text = std::fs::read_to_string(files.iter().find(is_result).unwrap()).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["results"].clone()
}

#[test]
fn lm_eval_gets_the_numbers_of_the_program_itself() {
    let packages = ["lm-eval[api]==0.4.13", "transformers==5.24.0"];
    let python = match python_with(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("lm-eval"), &packages) {
        Ok(python) => python,
        Err(reason) => {
            skipped(format_args!("lm-eval cannot be installed here: {reason}"));
            return;
        }
    };
    let world = world();
    let server = Serving::start(&world, &["base"]);
    let script = workspace_root().join("tests/cli/clients/lm_eval_client.py");
    let mut client = Command::new(python);
    client.arg(script).args([&server.url, "base"]).args([world.path("models/base"), world.path("tasks")]);
    client.envs([("HF_HUB_OFFLINE", "1"), ("HF_DATASETS_OFFLINE", "1")]).env("HF_HOME", world.path("hf"));
    let outcome = Outcome::new(&client.output().unwrap()).expect(0);
    let told: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    let own = own_results(&world, "plain", &["--tasks", "toy_choice,toy_answer,toy_text"]);
    let chat = own_results(&world, "chat", &["--tasks", "toy_answer", "--apply-chat-template"]);
    for (told, own, tasks) in [
        (&told["completions"], &own, &["toy_choice", "toy_answer", "toy_text"][..]),
        (&told["chat"], &chat, &["toy_answer"]),
    ] {
        for task in tasks {
            let (told, own) = (metrics(told, task), metrics(own, task));
            assert!(!told.is_empty() && told.len() == own.len(), "{told:?}\n{own:?}");
            for ((name, value), (own_name, own_value)) in told.iter().zip(&own) {
                assert_eq!(name, own_name);
                let error = (value - own_value).abs() / own_value.abs().max(1.0);
                assert!(error < 1e-6, "{task} {name}: {value}, {own_value} by itself");
            }
        }
    }
}
