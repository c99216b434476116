//! Several ranks: this process as one of them, or as the one that starts them.

use std::{
    io::Read as _,
    net::TcpListener,
    ops::Range,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use harness_metrics::comparison::counted;
use harness_training::parallel::{Launch, Ranks, Secret};

use super::{App, Failure, stopping};

/// How long ranks look for each other.
const MEETING: Duration = Duration::from_secs(120);
/// How long the others may go on after one rank has failed; they end by themselves.
const GRACE: Duration = Duration::from_secs(30);

/// Where ranks meet that this program starts. Systems draw ports for connections from above, which one could be taken for
/// before rank 0 listens.
const MEETING_PORTS: Range<u16> = 20_000..32_000;

/// Set for ranks that this program starts: their standard input ends when the one that started them ends.
const STARTED: &str = "HARNESS_STARTED_BY";

/// Whether this process was started together with others on this host, as another than the first.
pub(super) fn follows() -> bool {
    std::env::var_os(STARTED).is_some() && std::env::var_os("RANK").is_some_and(|rank| rank != "0")
}

/// Whether this process is one of several ranks.
pub(super) fn is_rank() -> bool {
    found().is_ok_and(|place| place.is_some())
}

fn found() -> Result<Option<Launch>, Failure> {
    Ok(Launch::from_env(&|name| std::env::var(name).ok())?.filter(|launch| launch.world > 1))
}

/// This process's place among several, if a launcher gave it one.
///
/// # Errors
/// If the launcher's variables contradict each other, or a secret is needed and there is none.
pub(super) fn place() -> Result<Option<Launch>, Failure> {
    let place = found()?;
    place.as_ref().map_or(Ok(()), Launch::check_secret)?;
    Ok(place)
}

/// Meets the other ranks.
///
/// # Errors
/// If they do not all come.
pub(super) fn connect(app: &App, launch: Option<&Launch>) -> Result<Ranks, Failure> {
    let Some(launch) = launch else { return Ok(Ranks::single()) };
    if std::env::var_os(STARTED).is_some() {
        let stop = app.stop().clone();
        std::thread::spawn(move || {
            // Whatever comes, nothing more comes once the starter is gone or wants to stop.
            let _ = std::io::stdin().read_to_end(&mut vec![]);
            stopping::request(&stop);
        });
    }
    Ok(Ranks::connect(launch, MEETING, &|text| app.note(text))?)
}

/// Starts `n` ranks of this program with the same arguments on this host, and waits for them. The processor's threads are
/// shared out among them.
///
/// # Errors
/// If they cannot be started, or one fails.
pub(super) fn spawn(app: &App, n: usize) -> Result<(), Failure> {
    let fail = |what: &str, e: std::io::Error| Failure::work(format!("cannot {what}: {e}"));
    let program = std::env::current_exe().map_err(|e| fail("find this program", e))?;
    let port = meeting_port().ok_or_else(|| {
        let last = MEETING_PORTS.end - 1;
        Failure::work(format!("none of the ports {} to {last} is free for the ranks to meet at", MEETING_PORTS.start))
    })?;
    // In the environment, which only this user can read; arguments can be read by all.
    let secret = Secret::random_text()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ranks: Vec<Child> = vec![];
    for rank in 0..n {
        let mut command = Command::new(&program);
        command.args(arguments(std::env::args().skip(1)));
        command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string()).env("WORLD_SIZE", n.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.env("HARNESS_JOB", format!("{}-{port}", std::process::id())).env(Launch::SECRET, &secret);
        command.env(STARTED, std::process::id().to_string()).stdin(Stdio::piped());
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", (cores / n).max(1).to_string());
        }
        if rank > 0 {
            command.stdout(Stdio::null());
        }
        match command.spawn() {
            Ok(child) => ranks.push(child),
            Err(e) => {
                ranks.iter_mut().for_each(|rank| drop(rank.kill()));
                return Err(fail("start a rank", e));
            }
        }
    }
    let threads = (cores / n).max(1);
    app.note(format!("{} on this host, {} each", counted(n, "rank"), counted(threads, "thread")));
    wait(app, ranks)
}

/// A free port for the ranks of this process to meet at, another one than those of processes started about now.
fn meeting_port() -> Option<u16> {
    let first = std::process::id() as usize % MEETING_PORTS.len();
    let ports = MEETING_PORTS.skip(first).chain(MEETING_PORTS.take(first));
    ports.into_iter().find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// The arguments without `--nproc`.
fn arguments(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = vec![];
    let mut skip = false;
    for argument in all {
        if std::mem::take(&mut skip) || argument.starts_with("--nproc=") {
            continue;
        }
        skip = argument == "--nproc";
        if !skip {
            kept.push(argument);
        }
    }
    kept
}

fn wait(app: &App, mut ranks: Vec<Child>) -> Result<(), Failure> {
    let mut status: Vec<Option<ExitStatus>> = vec![None; ranks.len()];
    let mut failed: Option<(usize, Instant)> = None;
    // They save what they have done; this process ends after them.
    let _unsaved = app.stop().unsaved();
    while status.iter().any(Option::is_none) {
        if app.interrupted() {
            ranks.iter_mut().for_each(|rank| drop(rank.stdin.take()));
        }
        for (rank, child) in ranks.iter_mut().enumerate() {
            if status[rank].is_some() {
                continue;
            }
            status[rank] = child.try_wait().map_err(|e| Failure::work(format!("cannot wait for rank {rank}: {e}")))?;
            if status[rank].is_some_and(|status| !status.success()) {
                failed.get_or_insert((rank, Instant::now()));
            }
        }
        if failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
            for (rank, child) in ranks.iter_mut().enumerate() {
                if status[rank].is_some() {
                    continue;
                }
                // What has ended meanwhile cannot be killed, and need not be.
                let _ = child.kill();
                status[rank] = child.wait().ok();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Some((first, _)) = failed else { return Ok(()) };
    if app.interrupted() && status[0].is_some_and(|status| status.code() == Some(1)) {
        // Rank 0 has said where the run goes on.
        return Err(Failure::work("").after_output());
    }
    // One that was killed could not say anything; the others have ended because of it.
    let killed = |status: &Option<ExitStatus>| status.is_some_and(|status| status.code().is_none());
    let same = |status: &Option<ExitStatus>| status.and_then(|status| status.code()) == Some(2);
    let rank = status.iter().position(killed).or_else(|| status.iter().position(same)).unwrap_or(first);
    let code = status[rank].and_then(|status| status.code());
    let how = code.map_or("was killed".to_owned(), |code| format!("ended with exit code {code}"));
    let message = format!("rank {rank} {how}; its output is above");
    // Rank 0 has printed its result, or its failure.
    Err(if code == Some(2) { Failure::usage(message) } else { Failure::work(message) }.after_output())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_get_the_same_arguments_but_one() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for text in ["train --nproc 2 r8 --json", "train --nproc=2 r8 --json"] {
            assert_eq!(arguments(words(text).into_iter()), words("train r8 --json"));
        }
    }
}
