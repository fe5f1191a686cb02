//! The log services of a shard: a single one, or three that keep the log together.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use redis::Value;

use crate::connection::Connection;
use crate::process::{from_environment, Process};

const HOST: &str = "127.0.0.1";
/// A service that stands still does not answer.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// For what waits for others, or for a disk.
const LONG_ANSWER_TIME: Duration = Duration::from_secs(10);
/// For a place in the cluster to be given to another service. One that stands still does not answer.
const REPLACE_TIME: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(20);
/// What the three know of each other.
const PEER_TOKEN: &str = "what the services know of each other\n";
/// What a service says if it is wrong itself, whatever is done to it.
const NEVER_SAID: [&str; 3] = ["panicked at", "a rule of consensus was broken", "cannot be applied"];

/// Where one service is reached.
#[derive(Debug, Clone)]
pub struct Ports {
    /// By nodes and clients.
    pub listen: u16,
    /// By HTTP.
    pub http: u16,
    /// Where this service reaches each of all services, itself included, or others are to reach it. Empty if it is alone.
    pub peers: Vec<u16>,
}

/// How they are set up.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// For everything that they write.
    pub directory: &'a Path,
    /// The shards that are asked about, of which there is one at least.
    pub shards: &'a [String],
    /// Of each service: one, or three.
    pub ports: Vec<Ports>,
    /// More words of the command line.
    pub arguments: &'a [&'a str],
    /// Whether their disks can be made to fail: see [`Service::set_failpoints`].
    pub has_failpoints: bool,
}

/// One of them.
#[derive(Debug)]
pub struct Service {
    /// The program.
    pub process: Process,
    /// Whether it is meant to run.
    pub is_started: bool,
    /// Whether what it writes or syncs fails. One that is started then may end, and says why.
    pub is_disk_failing: bool,
    /// Whether it was started while its disk failed.
    may_end: bool,
    /// Whether it has ended for that, and is to be started when its disk is mended.
    pub waits_for_disk: bool,
    /// Its disk.
    pub directory: PathBuf,
    /// Where it is asked.
    pub url: String,
    failpoints: PathBuf,
}

/// All of them. They end when this is dropped.
#[derive(Debug)]
pub struct Services {
    /// The services, which are named log0, log1, ...
    pub list: Vec<Service>,
    shards: Vec<String>,
}

impl Services {
    /// Those of new shards. None runs yet.
    ///
    /// # Errors
    /// A file cannot be written, or the environment does not say which program it is.
    pub fn new(options: &Options) -> Result<Self> {
        let Options { directory, ports, has_failpoints, .. } = options;
        ensure!([1, 3].contains(&ports.len()), "logs are kept by one service or by three, not by {}", ports.len());
        let token = directory.join("peer-token");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&token)?;
        file.write_all(PEER_TOKEN.as_bytes())?;
        let program = from_environment(if *has_failpoints { "LOGSERVICE_FAILPOINTS" } else { "LOGSERVICE" })?;
        let server = from_environment("VALKEY_BIN_DIR")?.join("valkey-server");
        let list = ports.iter().enumerate().map(|(number, ports)| {
            let name = format!("log{number}");
            let home = directory.join(&name);
            let mut words: Vec<String> = [
                ("--dir", home.display().to_string()),
                ("--listen", format!("{HOST}:{}", ports.listen)),
                ("--http", format!("{HOST}:{}", ports.http)),
                ("--valkey-server", server.display().to_string()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect();
            if !ports.peers.is_empty() {
                let peers: Vec<_> =
                    ports.peers.iter().enumerate().map(|(peer, port)| format!("log{peer}={HOST}:{port}")).collect();
                let flags = [
                    ("--name", name.clone()),
                    ("--zone", format!("zone{number}")),
                    ("--peers", peers.join(",")),
                    ("--peer-token", token.display().to_string()),
                    ("--snapshots", format!("file://{}", directory.join("snapshots").display())),
                ];
                words.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            }
            words.extend(options.arguments.iter().map(|word| (*word).to_owned()));
            let failpoints = directory.join(format!("{name}.failpoints"));
            let process = Process::new(program.clone(), words, directory.join(format!("{name}.output")));
            let process = process.with_variable("FAILPOINTS_FILE", &failpoints);
            Service {
                process,
                is_started: false,
                is_disk_failing: false,
                may_end: false,
                waits_for_disk: false,
                directory: home,
                url: url(ports.listen),
                failpoints,
            }
        });
        let list = list.collect();
        fs::create_dir_all(directory.join("snapshots"))?;
        Ok(Services { list, shards: options.shards.to_vec() })
    }

    /// Starts all that do not run.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_all(&mut self) -> Result<()> {
        self.list.iter_mut().try_for_each(|service| service.start().map(drop))
    }

    /// As a crash of all at once.
    ///
    /// # Errors
    /// The system does not let one be killed.
    pub fn kill_all(&mut self) -> Result<()> {
        self.list.iter_mut().try_for_each(Service::kill)
    }

    /// Makes three new services a cluster. Nothing is done if there is one.
    ///
    /// # Errors
    /// They do not become one in that time.
    pub fn form(&self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        while self.list.len() > 1 {
            let init = || Connection::open(&self.list[0].url, LONG_ANSWER_TIME)?.command("LOG.CLUSTER", &["INIT"]);
            match init() {
                Ok(_) => break,
                Err(error) if started.elapsed() > timeout => return Err(error.context("LOG.CLUSTER INIT")),
                Err(_) => thread::sleep(POLL),
            }
        }
        Ok(())
    }

    /// Asks all others to give the place of a service that has lost its disk to the one that runs in its stead. Returns what they answered. To be
    /// asked again until [`Services::has_replaced`]: who decides may not know yet that it is there.
    pub fn replace(&self, number: usize) -> String {
        let name = format!("log{number}");
        let ask = |service: &Service| {
            Connection::open(&service.url, REPLACE_TIME)?.command("LOG.CLUSTER", &["REPLACE", &name, &name])
        };
        let others = self.list.iter().enumerate().filter(|(other, service)| *other != number && service.is_started);
        let answers = others.map(|(other, service)| match ask(service) {
            Ok(answer) => format!("log{other}: {answer:?}"),
            Err(error) => format!("log{other}: {error:#}"),
        });
        answers.collect::<Vec<_>>().join("; ")
    }

    /// Whether the service that runs now has its place in the cluster, and all services keep all logs, whole. From then on another disk may be
    /// lost.
    pub fn has_replaced(&self, number: usize) -> bool {
        let statuses: Vec<_> = (0..self.list.len()).map(|at| self.cluster_status(at)).collect();
        let Some(member) = statuses[number].get("member") else { return false };
        let has_place = |status: &HashMap<String, String>| {
            let is_service = |field: &str| field.strip_prefix("service").is_some_and(|at| at.parse::<usize>().is_ok());
            let id = format!("id={member},");
            status.iter().any(|(field, value)| is_service(field) && value.starts_with(&id))
        };
        let is_whole = |log: &str| {
            let begins = format!("name={log},");
            let says = |value: &String| value.starts_with(&begins) && value.ends_with(",whole=1");
            statuses.iter().any(|status| has_place(status) && status.values().any(says))
        };
        // The cluster's own log has no name.
        self.shards.iter().map(String::as_str).chain([""]).all(is_whole)
    }

    /// `LOG.CLUSTER STATUS` of a service; empty if it does not answer.
    fn cluster_status(&self, number: usize) -> HashMap<String, String> {
        self.ask(number, "LOG.CLUSTER", "STATUS")
    }

    /// `LOG.STATUS` of a shard at a service; empty if it does not answer, or knows no such shard.
    pub fn status(&self, number: usize, shard: &str) -> HashMap<String, String> {
        self.ask(number, "LOG.STATUS", shard)
    }

    /// The fields that a service answers to a command; none if it does not answer.
    fn ask(&self, number: usize, command: &str, argument: &str) -> HashMap<String, String> {
        let service = &self.list[number];
        let ask = || Connection::open(&service.url, ANSWER_TIME)?.command(command, &[argument]);
        match ask() {
            Ok(answer) if service.is_started => pairs(&answer),
            _ => HashMap::new(),
        }
    }

    /// The service that decides over the log of the first shard, if one says so. A single one always does.
    pub fn decider(&self) -> Option<usize> {
        self.decision(&self.shards[0]).map(|(number, _)| number)
    }

    /// The service that decides over a shard's log, and its `LOG.STATUS` of it.
    pub fn decision(&self, shard: &str) -> Option<(usize, HashMap<String, String>)> {
        let mut statuses = (0..self.list.len()).map(|number| (number, self.status(number, shard)));
        let decides = |status: &HashMap<String, String>| {
            status.get("standing").is_some_and(|standing| ["decides", "alone"].contains(&&**standing))
        };
        statuses.find(|(_, status)| decides(status))
    }

    /// What keeps the services from being well: each runs, and each copy is heard of and lacks no more than so many entries, which has to be
    /// more than none while somebody writes. `None` if nothing does.
    pub fn trouble(&self, most_lag: u64) -> Option<String> {
        if let Some(down) = self.list.iter().position(|service| !service.is_started) {
            return Some(format!("log{down} does not run"));
        }
        if self.list.len() == 1 {
            return None;
        }
        self.shards.iter().find_map(|shard| self.trouble_of(shard, most_lag))
    }

    fn trouble_of(&self, shard: &str, most_lag: u64) -> Option<String> {
        let Some((decider, status)) = self.decision(shard) else {
            return Some(format!("no service decides over the log of {shard}"));
        };
        let copies: Vec<&String> = (0..self.list.len()).filter_map(|at| status.get(&format!("copy{at}"))).collect();
        let lag = |copy: &str| copy.split(',').find_map(|field| field.strip_prefix("lag=")?.parse::<u64>().ok());
        let is_well = |copy: &&String| lag(copy).is_some_and(|lag| lag <= most_lag) && copy.ends_with("heard=1");
        match copies.len() == self.list.len() && copies.iter().all(is_well) {
            true => None,
            false => Some(format!("log{decider} decides over the log of {shard}, and knows of the copies {copies:?}")),
        }
    }

    /// Waits until the services are well: see [`Services::trouble`].
    ///
    /// # Errors
    /// It takes too long, or one has ended by itself.
    pub fn wait_until_well(&mut self, most_lag: u64, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            match self.trouble(most_lag) {
                None => return Ok(()),
                Some(trouble) if started.elapsed() > timeout => bail!("after {timeout:?} without faults {trouble}"),
                Some(_) => thread::sleep(POLL),
            }
        }
    }

    /// Nobody ends by itself, but a service that was started while its disk failed.
    ///
    /// # Errors
    /// Somebody did.
    pub fn check_alive(&mut self) -> Result<()> {
        for (number, service) in self.list.iter_mut().enumerate() {
            if service.is_started && !service.process.is_running()? {
                ensure!(service.may_end, "log service log{number} has ended by itself");
                (service.is_started, service.waits_for_disk) = (false, true);
            }
        }
        Ok(())
    }

    /// No service has said what none may say.
    ///
    /// # Errors
    /// One has, or what it has said cannot be read.
    pub fn check_output(&self) -> Result<()> {
        for (number, service) in self.list.iter().enumerate() {
            let output = fs::read(service.process.output()).context("the output of a log service")?;
            let output = String::from_utf8_lossy(&output);
            let said = output.lines().find(|line| NEVER_SAID.iter().any(|never| line.contains(never)));
            ensure!(said.is_none(), "log{number} said: {}", said.unwrap_or_default());
        }
        Ok(())
    }
}

impl Service {
    /// Starts it, unless it is started. Returns whether it was.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<bool> {
        if std::mem::replace(&mut self.is_started, true) {
            return Ok(false);
        }
        (self.may_end, self.waits_for_disk) = (self.is_disk_failing, false);
        self.process.start()?;
        Ok(true)
    }

    /// As a crash.
    ///
    /// # Errors
    /// The system does not let it be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.is_started = false;
        self.process.kill()
    }

    /// It is killed, and its disk is lost. When it is started again, it waits to be given its place: see [`Services::replace`].
    ///
    /// # Errors
    /// The system does not let it be killed, or the files be removed.
    pub fn lose_disk(&mut self) -> Result<()> {
        self.kill()?;
        fs::remove_dir_all(&self.directory)?;
        self.process.add_argument("--join");
        Ok(())
    }

    /// It is asked to end (SIGTERM), and does so when it has handed over what it decides.
    ///
    /// # Errors
    /// It does not run.
    pub fn terminate(&mut self) -> Result<()> {
        self.is_started = false;
        self.process.terminate()
    }

    /// What its disk does from now on, in place of what it should: `STEP=ACTION;...`. Nothing of that if it is empty.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_failpoints(&self, what: &str) -> Result<()> {
        let partial = self.failpoints.with_extension("partial");
        fs::write(&partial, what)?;
        Ok(fs::rename(&partial, &self.failpoints)?)
    }
}

/// Where a server at that port is asked.
pub fn url(port: u16) -> String {
    format!("redis://{HOST}:{port}")
}

fn pairs(answer: &Value) -> HashMap<String, String> {
    let words = match answer {
        Value::Array(words) => words.as_slice(),
        _ => &[],
    };
    let text = |value: &Value| redis::from_redis_value_ref::<String>(value).unwrap_or_default();
    words.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}
