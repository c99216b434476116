//! Which rank this process is: from the variables that torchrun, SLURM and MPI set, or set by `--nproc`.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use super::Secret;
use crate::TrainingError;

/// Port of the rendezvous unless something says otherwise.
const PORT: u16 = 29500;

/// The place of a process in a distributed run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its number, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
    /// Its number on its host, if the launcher gives one.
    pub local_rank: Option<usize>,
    /// Hosts where rank 0 may wait for the others, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// First port that rank 0 tries.
    pub port: u16,
    /// Ports tried: more than one where the launcher holds the first for itself.
    pub ports: u16,
    /// What names the run, so that processes of another one are turned away; empty if the launcher gives no name.
    pub job: String,
    /// What all ranks were given, so that nobody else can take part.
    pub secret: Option<Secret>,
}

/// Names of one variable with different launchers, in order of precedence.
const RANK: [&str; 4] = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"];
const WORLD: [&str; 4] = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"];
const LOCAL: [&str; 4] = ["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"];

impl Launch {
    /// The variable with the secret: the same text for all ranks.
    pub const SECRET: &str = "HARNESS_RANK_SECRET";

    /// The place that the environment gives, `None` outside of a distributed run. `get` looks a variable up.
    ///
    /// # Errors
    /// [`TrainingError::Launch`] if variables contradict each other or are no numbers.
    pub fn from_env(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, TrainingError> {
        let number = |names: &[&str]| -> Result<Option<(usize, String)>, TrainingError> {
            let Some((name, text)) = names.iter().find_map(|name| Some((*name, get(name)?))) else { return Ok(None) };
            let value = text.trim().parse().map_err(|_| error(format!("{name} = {text:?}: expected a number")))?;
            Ok(Some((value, name.to_owned())))
        };
        // A shell inside of a SLURM allocation has these variables too, without being a task of a step.
        let slurm_only = [RANK, WORLD].iter().all(|names| names[..3].iter().all(|name| get(name).is_none()));
        if slurm_only && get("SLURM_STEP_ID").is_none() {
            return Ok(None);
        }
        let (Some((world, world_name)), Some((rank, rank_name))) = (number(&WORLD)?, number(&RANK)?) else {
            return match (number(&WORLD)?, number(&RANK)?) {
                (Some((world, name)), None) if world > 1 => {
                    Err(error(format!("{name} = {world}, but none of {} is set", RANK.join(", "))))
                }
                (None, Some((_, name))) if name != "SLURM_PROCID" => {
                    Err(error(format!("{name} is set, but none of {} is", WORLD.join(", "))))
                }
                _ => Ok(None),
            };
        };
        if rank >= world {
            return Err(error(format!("{rank_name} = {rank}: expected less than {world_name} = {world}")));
        }
        let local_rank = number(&LOCAL)?.map(|(local, _)| local);
        // SLURM's names of nodes need not be names of hosts; where a job was launched is often one of its nodes.
        let addresses = match get("MASTER_ADDR") {
            Some(address) => vec![address],
            None => {
                let first = get("SLURM_STEP_NODELIST").and_then(|list| first_host(&list));
                let all: Vec<String> = first.into_iter().chain(get("SLURM_LAUNCH_NODE_IPADDR")).collect();
                if all.is_empty() { vec!["127.0.0.1".to_owned()] } else { all }
            }
        };
        let job_id = get("SLURM_JOB_ID");
        let port = match get("MASTER_PORT") {
            Some(text) => text.trim().parse().map_err(|_| error(format!("MASTER_PORT = {text:?}: expected a port")))?,
            // Two jobs on one host get different ports.
            None => {
                job_id.as_ref().and_then(|id| id.parse::<u32>().ok()).map_or(PORT, |id| 10_000 + (id % 20_000) as u16)
            }
        };
        // torchrun's agent listens on MASTER_PORT itself.
        let held = get("TORCHELASTIC_RUN_ID").is_some() || get("TORCHELASTIC_USE_AGENT_STORE").is_some();
        let (port, ports) = if held { (port.saturating_add(1), 16) } else { (port, 1) };
        let job = get("HARNESS_JOB").or_else(|| get("TORCHELASTIC_RUN_ID")).or(job_id).unwrap_or_default();
        let secret = match get(Self::SECRET) {
            Some(text) if text.trim().is_empty() => {
                return Err(error(format!(
                    "{} is empty: expected a random text, the same for all ranks",
                    Self::SECRET
                )));
            }
            text => text.map(|text| Secret::of(text.trim())),
        };
        Ok(Some(Self { rank, world, local_rank, addresses, port, ports, job, secret }))
    }

    /// Refuses to be found from other hosts by anyone who calls: without a secret, the job's name at least must be known.
    ///
    /// # Errors
    /// [`TrainingError::Launch`] if there is neither, and not all ranks are on this host.
    pub fn check_secret(&self) -> Result<(), TrainingError> {
        if self.secret.is_some() || !self.job.is_empty() || self.loopback().is_some() {
            return Ok(());
        }
        let (name, at) = (Self::SECRET, self.addresses.join(", "));
        Err(error(format!(
            "the ranks meet at {at}, where any host can call, and their launcher gives no job id: set {name} to the same \
             random text for all ranks (openssl rand -hex 32)"
        )))
    }

    /// The address of this host alone at which all ranks meet, if they do.
    pub(super) fn loopback(&self) -> Option<IpAddr> {
        let of_host = |address: &String| match address.as_str() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            address => address.parse().ok().filter(IpAddr::is_loopback),
        };
        let all: Option<Vec<IpAddr>> = self.addresses.iter().map(of_host).collect();
        all?.first().copied()
    }

    /// The ports that rank 0 tries.
    pub(super) fn port_range(&self) -> RangeInclusive<u16> {
        self.port..=self.port.saturating_add(self.ports - 1)
    }

    /// What proves that a process is of this run.
    pub(super) fn key(&self) -> Secret {
        Secret::of_job(self.secret.as_ref(), &self.job)
    }
}

fn error(message: String) -> TrainingError {
    TrainingError::Launch { message }
}

/// The first host of a list as SLURM writes it: `node[03-05,9],other` begins with `node03`.
fn first_host(list: &str) -> Option<String> {
    let list = list.trim();
    let end = list.find([',', '[']).unwrap_or(list.len());
    let name = &list[..end];
    let Some(inside) = list[end..].strip_prefix('[') else { return (!name.is_empty()).then(|| name.to_owned()) };
    let close = inside.find(']')?;
    let number = inside[..close].split([',', '-']).next()?;
    let suffix = inside[close + 1..].split(',').next().unwrap_or_default();
    Some(format!("{name}{number}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(vars: &[(&str, &str)]) -> Result<Option<Launch>, String> {
        let get = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Launch::from_env(&get).map_err(|error| error.to_string())
    }

    #[test]
    fn launchers_are_understood() {
        assert_eq!(launch(&[]), Ok(None));
        let torchrun =
            [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "7")];
        let expected = Launch {
            rank: 3,
            world: 4,
            local_rank: Some(1),
            addresses: vec!["a".into()],
            port: 7,
            ports: 1,
            job: String::new(),
            secret: None,
        };
        assert_eq!(launch(&torchrun), Ok(Some(expected.clone())));
        let elastic = [&torchrun[..], &[("TORCHELASTIC_RUN_ID", "x")]].concat();
        assert_eq!(launch(&elastic), Ok(Some(Launch { port: 8, ports: 16, job: "x".into(), ..expected })));
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "0")];
        let found = launch(&mpi).unwrap().unwrap();
        assert_eq!((found.rank, found.world, found.local_rank, found.port), (1, 2, Some(0), 29500));
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[007-010],big1"),
            ("SLURM_JOB_ID", "123456"),
        ];
        assert_eq!(launch(&slurm), Ok(None), "an allocation's shell is no task");
        let step = [&slurm[..], &[("SLURM_STEP_ID", "0")]].concat();
        let found = launch(&step).unwrap().unwrap();
        assert_eq!(
            (found.rank, found.local_rank, found.addresses, found.port),
            (5, Some(1), vec!["gpu007".into()], 13456)
        );
        let launched = [&step[..], &[("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1")]].concat();
        assert_eq!(launch(&launched).unwrap().unwrap().addresses, ["gpu007", "10.0.0.1"]);
    }

    #[test]
    fn runs_that_other_hosts_can_call_need_a_secret() {
        let at = |address: &str, more: &[(&str, &str)]| {
            let vars = [&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", address)], more].concat();
            launch(&vars).and_then(|found| found.unwrap().check_secret().map_err(|error| error.to_string()))
        };
        for loopback in ["127.0.0.1", "localhost", "127.0.1.1", "::1"] {
            assert_eq!(at(loopback, &[]), Ok(()), "{loopback}");
        }
        for address in ["node1", "10.0.0.1", "0.0.0.0", "localhost.example"] {
            let error = at(address, &[]).unwrap_err();
            assert!(
                error.contains(&format!("meet at {address}")) && error.contains("set HARNESS_RANK_SECRET"),
                "{error}"
            );
            for known in [("HARNESS_RANK_SECRET", "x"), ("SLURM_JOB_ID", "1"), ("TORCHELASTIC_RUN_ID", "x")] {
                assert_eq!(at(address, &[known]), Ok(()), "{known:?}");
            }
        }
        assert!(at("127.0.0.1", &[("HARNESS_RANK_SECRET", " ")]).unwrap_err().contains("is empty"));
    }

    #[test]
    fn secret_and_job_make_the_key() {
        let key = |more: &[(&str, &str)]| {
            launch(&[&[("RANK", "0"), ("WORLD_SIZE", "2")], more].concat()).unwrap().unwrap().key()
        };
        let (secret, job) = (("HARNESS_RANK_SECRET", "x"), ("SLURM_JOB_ID", "1"));
        assert_eq!(key(&[secret, job]), key(&[("HARNESS_RANK_SECRET", "x\n"), job]));
        let keys =
            [key(&[]), key(&[secret]), key(&[job]), key(&[secret, job]), key(&[("HARNESS_RANK_SECRET", "y"), job])];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other != one), "{i}");
        }
    }

    #[test]
    fn lists_of_hosts() {
        for (list, first) in
            [("a", "a"), ("a,b", "a"), ("n[3-5]", "n3"), ("n[12,14-15]-ib,m", "n12-ib"), ("r1n[01]", "r1n01")]
        {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(first_host(""), None);
    }

    #[test]
    fn contradictions_are_named() {
        let refused = |vars: &[(&str, &str)]| launch(vars).unwrap_err();
        assert!(refused(&[("RANK", "4"), ("WORLD_SIZE", "4")]).contains("RANK = 4: expected less than WORLD_SIZE = 4"));
        assert!(refused(&[("RANK", "x"), ("WORLD_SIZE", "4")]).contains("expected a number"));
        assert!(refused(&[("WORLD_SIZE", "4")]).contains("none of RANK"));
        assert!(refused(&[("RANK", "0")]).contains("none of WORLD_SIZE"));
    }
}
