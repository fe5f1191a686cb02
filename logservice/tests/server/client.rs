//! A service in this process, and a client that speaks just enough RESP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use logservice::connections::limits::Patience;
use logservice::program::command_line::CommandLine;
use logservice::program::lifecycle::{self, RunningService, StartError};
use tokio::runtime::Runtime;

pub struct Service {
    runtime: Runtime,
    server: RunningService,
}

impl Service {
    pub fn start(directory: &Path, flags: &[&str]) -> Result<Self, StartError> {
        Self::start_as(directory, flags, |_| {})
    }

    /// With less patience than a server has, so that no test has to wait for it.
    pub fn start_patient(directory: &Path, flags: &[&str], limit: impl FnOnce(&mut Patience)) -> Self {
        Self::start_as(directory, flags, limit).expect("starts")
    }

    fn start_as(directory: &Path, flags: &[&str], limit: impl FnOnce(&mut Patience)) -> Result<Self, StartError> {
        let directory = directory.to_str().expect("text");
        // Not a single child process: its end would interrupt what the tests read and write.
        let quiet = ["--segment-mb", "2", "--snapshot-log-mb", "0"];
        let fixed = ["logservice", "--dir", directory, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let line = CommandLine::parse_from(fixed.iter().chain(&quiet).chain(flags));
        let mut config = line.serving().expect("a directory");
        limit(&mut config.patience);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("runtime");
        let server = runtime.block_on(lifecycle::start(&config))?;
        Ok(Service { runtime, server })
    }

    pub fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.server.listen)
    }

    /// A client that leads `shard` from its end on, and its epoch. Its lease never expires, so that it passes to the same node at once.
    pub fn lead(&self, shard: &str, node: &str, replid: &str) -> (Client, u64, u64) {
        self.lead_by(self.connect(), shard, node, replid)
    }

    pub fn lead_by(&self, mut client: Client, shard: &str, node: &str, replid: &str) -> (Client, u64, u64) {
        client.make(shard);
        let end = client.status(shard, "end").parse().expect("a number");
        let (epoch, end) = client.acquire(shard, node, end, 0).expect("acquired");
        client.ok(&["LOG.BEGIN", shard, &epoch.to_string(), replid, &end.to_string()]);
        (client, epoch, end)
    }

    /// Sends an HTTP request; answers status and body.
    pub fn http(&self, head: &str, body: &[u8]) -> (u16, String) {
        Self::http_at(self.server.http, head, body)
    }

    pub fn http_at(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(address).expect("connected");
        let text = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(text.as_bytes()).expect("sent");
        // The service may answer without reading the body.
        let _ = stream.write_all(body);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    pub fn server(&self) -> &RunningService {
        &self.server
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn http_address(&self) -> SocketAddr {
        self.server.http
    }

    pub fn listen_address(&self) -> SocketAddr {
        self.server.listen
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Text(String),
    Error(String),
    Integer(u64),
    Array(Vec<Reply>),
    Null,
}

/// A command as it is sent.
pub fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    out
}

pub struct Client {
    pub stream: TcpStream,
    pub replies: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        Client { replies: BufReader::new(stream.try_clone().expect("cloned")), stream }
    }

    pub fn send(&mut self, arguments: &[&[u8]]) {
        self.stream.write_all(&command(arguments)).expect("sent");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("a line");
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    pub fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.replies.read_exact(&mut out).expect("bytes");
        out
    }

    pub fn reply(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1.min(line.len()));
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse().expect("a number")),
            "$" if rest == "-1" => Reply::Null,
            "$" => {
                let text = self.bytes(rest.parse().expect("a length"));
                self.bytes(2);
                Reply::Text(String::from_utf8_lossy(&text).into_owned())
            }
            "*" => {
                let items: usize = rest.parse().expect("a length");
                Reply::Array((0..items).map(|_| self.reply()).collect())
            }
            _ => panic!("no reply: {line:?}"),
        }
    }

    pub fn call(&mut self, arguments: &[&str]) -> Reply {
        if let ["LOG.ACQUIRE", shard, node, address, ..] = arguments {
            // As every node does. One that is refused is refused below as well.
            let _ = self.call(&["LOG.CHECK", shard, node, address, "-"]);
        }
        self.send(&arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        self.reply()
    }

    /// Makes a shard as a node does that knows nothing of it.
    pub fn make(&mut self, shard: &str) {
        let made = self.call(&["LOG.CHECK", shard, "maker", "host:1", "-"]);
        assert!(matches!(made, Reply::Text(_)), "{made:?}");
    }

    pub fn ok(&mut self, arguments: &[&str]) {
        assert_eq!(self.call(arguments), Reply::Text("OK".to_owned()), "{arguments:?}");
    }

    /// Expects an error whose text begins like that.
    pub fn refused(&mut self, arguments: &[&str], start: &str) {
        match self.call(arguments) {
            Reply::Error(text) => assert!(text.starts_with(start), "{arguments:?}: {text}"),
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    pub fn acquire(&mut self, shard: &str, node: &str, end: u64, lease_ms: u64) -> Result<(u64, u64), String> {
        let (end, lease_ms) = (end.to_string(), lease_ms.to_string());
        match self.call(&["LOG.ACQUIRE", shard, node, "host:1", &end, &lease_ms]) {
            Reply::Array(items) => match items[..] {
                [Reply::Integer(epoch), Reply::Integer(end)] => Ok((epoch, end)),
                _ => panic!("{items:?}"),
            },
            Reply::Error(text) => Err(text),
            other => panic!("{other:?}"),
        }
    }

    pub fn send_append(&mut self, shard: &str, epoch: u64, offset: u64, payload: &[u8]) {
        let (epoch, offset) = (epoch.to_string(), offset.to_string());
        self.send(&[b"LOG.APPEND", shard.as_bytes(), epoch.as_bytes(), offset.as_bytes(), payload]);
    }

    pub fn append(&mut self, shard: &str, epoch: u64, offset: u64, payload: &[u8]) -> Reply {
        self.send_append(shard, epoch, offset, payload);
        self.reply()
    }

    pub fn status(&mut self, shard: &str, field: &str) -> String {
        let Reply::Array(items) = self.call(&["LOG.STATUS", shard]) else { panic!("no status") };
        let at = items.iter().step_by(2).position(|name| *name == Reply::Text(field.to_owned()));
        match items.into_iter().nth(at.expect("the field") * 2 + 1) {
            Some(Reply::Text(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    /// Logs in to `shard` and asks for the stream; answers the first line of the answer.
    pub fn psync(&mut self, shard: &str, replid: &str, next: i64) -> String {
        self.ok(&["AUTH", shard, "any"]);
        self.send(&[b"PSYNC", replid.as_bytes(), next.to_string().as_bytes()]);
        self.line()
    }

    /// Expects that the other side has closed the connection.
    pub fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.replies.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{rest:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
