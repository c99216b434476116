//! Which GPU each rank takes.

use serde::{Deserialize, Serialize};

use crate::TrainingError;

/// What a rank says of itself and of the GPUs that it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    /// The host's name.
    pub(super) host: String,
    /// Its number on the host, if its launcher gave it one.
    pub(super) local: Option<usize>,
    /// Name and identity of each GPU, in order of their numbers.
    pub(super) gpus: Vec<(String, String)>,
}

/// The number of the GPU that each rank takes, among those it sees: `first` and its number on the host, or the only one, as a
/// launcher shows each task its own.
///
/// # Errors
/// [`TrainingError::Launch`] if there is none for a rank, or two ranks have the same one; with the same seats it is the same.
pub(super) fn assign(seats: &[Seat], first: usize) -> Result<Vec<usize>, TrainingError> {
    let refuse = |message: String| Err(TrainingError::Launch { message });
    let mut taken: Vec<usize> = vec![];
    for (rank, seat) in seats.iter().enumerate() {
        let (host, there) = (&seat.host, seat.gpus.len());
        let before = seats[..rank].iter().filter(|other| other.host == *host).count();
        let local = seat.local.unwrap_or(before);
        let gpu = if there == 1 || seats.len() == 1 { first } else { first + local };
        let Some((name, identity)) = seat.gpus.get(gpu) else {
            let (nth, from) =
                (ordinal(local + 1), if first > 0 { format!(" from cuda:{first} on") } else { String::new() });
            let left = there.saturating_sub(first);
            let has = if left == 1 { "1 GPU".to_owned() } else { format!("{left} GPUs") };
            return refuse(format!(
                "rank {rank} is the {nth} of host {host}, which has {has}{from}: start as many ranks there as it has GPUs \
                 (--nproc {}), or use more hosts",
                left.max(1)
            ));
        };
        let same = (0..rank).find(|&other| seats[other].gpus[taken[other]].1 == *identity);
        if let Some(other) = same {
            return refuse(format!(
                "ranks {other} and {rank} have the same GPU, {name} ({identity}) of host {host}: start one rank per \
                 GPU (--nproc {there}), give each its own LOCAL_RANK, or show each another one (CUDA_VISIBLE_DEVICES, \
                 srun --gpus-per-task 1)"
            ));
        }
        taken.push(gpu);
    }
    Ok(taken)
}

/// `1st`, `2nd`, `3rd`, `4th`, ...
fn ordinal(n: usize) -> String {
    let end = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank that sees these GPUs of a host.
    fn seat(host: &str, local: Option<usize>, gpus: &[&str]) -> Seat {
        let gpus = gpus.iter().map(|gpu| ("NVIDIA H100".to_owned(), format!("GPU-{host}-{gpu}"))).collect();
        Seat { host: host.to_owned(), local, gpus }
    }

    fn refusal(seats: &[Seat], first: usize) -> String {
        assign(seats, first).unwrap_err().to_string()
    }

    #[test]
    fn ranks_take_the_gpus_of_their_numbers_on_the_host() {
        let two = |local| [seat("a", local, &["0", "1"]), seat("b", local, &["0", "1"])];
        let hosts = [two(Some(0)), two(Some(1))].concat();
        assert_eq!(assign(&hosts, 0).unwrap(), [0, 0, 1, 1], "ranks dealt out over the hosts in turn");
        let hosts: Vec<Seat> = ["a", "a", "b", "b"].map(|host| seat(host, None, &["0", "1"])).to_vec();
        assert_eq!(assign(&hosts, 0).unwrap(), [0, 1, 0, 1], "without a launcher that numbers them");
        let uneven: Vec<Seat> = ["a", "b", "b", "b"].map(|host| seat(host, None, &["0", "1", "2"])).to_vec();
        assert_eq!(assign(&uneven, 0).unwrap(), [0, 0, 1, 2]);
        let later = [seat("a", Some(0), &["0", "1", "2"]), seat("a", Some(1), &["0", "1", "2"])];
        assert_eq!(assign(&later, 1).unwrap(), [1, 2], "--device cuda:1");
        assert_eq!(assign(&[seat("a", Some(1), &["0", "1", "2"])], 2).unwrap(), [2], "one rank takes what is named");
    }

    #[test]
    fn tasks_that_see_their_own_gpu_take_it() {
        let tasks: Vec<Seat> = (0..4).map(|i| seat("a", Some(i), &[["0", "1", "2", "3"][i]])).collect();
        assert_eq!(assign(&tasks, 0).unwrap(), [0; 4]);
        let elsewhere = [seat("a", Some(0), &["0", "1"]), seat("a", Some(0), &["1", "0"])];
        assert_eq!(assign(&elsewhere, 0).unwrap(), [0, 0], "CUDA_VISIBLE_DEVICES=0,1 and 1,0");
    }

    #[test]
    fn a_rank_without_a_gpu_is_named() {
        let seats: Vec<Seat> = (0..4).map(|i| seat("a", Some(i), &["0", "1"])).collect();
        let error = refusal(&seats, 0);
        assert!(
            error.contains("rank 2 is the 3rd of host a, which has 2 GPUs") && error.contains("--nproc 2"),
            "{error}"
        );
        let error = refusal(&seats[..2], 1);
        assert!(error.contains("rank 1 is the 2nd of host a, which has 1 GPU from cuda:1 on"), "{error}");
        assert!(refusal(&seats[..1], 5).contains("which has 0 GPUs from cuda:5 on"));
    }

    #[test]
    fn two_ranks_with_one_gpu_are_named() {
        let shared = |locals: [usize; 3]| locals.map(|local| seat("a", Some(local), &["0", "1"]));
        let error = refusal(&shared([0, 1, 0]), 0);
        assert!(error.contains("ranks 0 and 2 have the same GPU, NVIDIA H100 (GPU-a-0) of host a"), "{error}");
        let only: Vec<Seat> = (0..2).map(|i| seat("a", Some(i), &["0"])).collect();
        let error = refusal(&only, 0);
        assert!(error.contains("ranks 0 and 1") && error.contains("--nproc 1"), "{error}");
    }

    #[test]
    fn ordinals() {
        let all: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102].into_iter().map(ordinal).collect();
        assert_eq!(all, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd"]);
    }
}
