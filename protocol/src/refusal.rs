use std::fmt;

use crate::EngineVersion;

/// Why the log service refused a command: the first word of its error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The epoch of the request is not the current one: another leader has taken over. Final for that epoch.
    Fenced,
    /// The offset of the request is not the log's end, or the log lacks, or has in another form, what was durable in it. The detail
    /// begins with the end.
    Gap,
    /// This is another log than the one that the node has led or followed, though it goes by the same shard name. The detail
    /// begins with this log's id.
    OtherLog,
    /// Another node holds the lease, or it is reserved for another. The detail begins with that node's id, its address (`-` if
    /// it is not known), and milliseconds left (-1 it never expires).
    Leased,
    /// The node's engine is older than the one that wrote the log, so it may not know what it would be sent.
    OldEngine,
    /// The disk of the log is full. Nothing of the request was written; it can be sent again.
    NoSpace,
    /// A write or fsync of the log failed: the shard acknowledges nothing until the service is restarted.
    LogFailed,
    /// A replica is not given the stream for now. In its form Valkey's own word: a server that is answered so tries again, and keeps
    /// what it holds.
    NoMasterLink,
    /// There is no shard of that name, or the one that the connection was about was dropped.
    NoShard,
    /// The shard is named by nobody, or the token is wrong, or is none any more.
    NoAuth,
    /// The role of the token does not allow the command. The detail names the role that does.
    NoPerm,
    /// Anything else: a malformed request.
    Err,
}

impl Code {
    const ALL: [Code; 12] = [
        Code::Fenced,
        Code::Gap,
        Code::OtherLog,
        Code::Leased,
        Code::OldEngine,
        Code::NoSpace,
        Code::LogFailed,
        Code::NoMasterLink,
        Code::NoShard,
        Code::NoAuth,
        Code::NoPerm,
        Code::Err,
    ];

    /// The word as it stands in the reply.
    pub fn word(self) -> &'static str {
        match self {
            Code::Fenced => "FENCED",
            Code::Gap => "GAP",
            Code::OtherLog => "OTHERLOG",
            Code::Leased => "LEASED",
            Code::OldEngine => "OLDENGINE",
            Code::NoSpace => "NOSPACE",
            Code::LogFailed => "LOGFAILED",
            Code::NoMasterLink => "NOMASTERLINK",
            Code::NoShard => "NOSHARD",
            Code::NoAuth => "NOAUTH",
            Code::NoPerm => "NOPERM",
            Code::Err => "ERR",
        }
    }
}

/// An error reply of the log service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// The rest of the line, for a person to read.
    pub detail: String,
}

impl Refusal {
    /// A refusal of `code` that says `detail`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Refusal { code, detail: detail.into() }
    }

    /// A node `that` (runs an older engine, say) cannot follow or lead a log that `writer` wrote.
    pub fn old_engine(that: &str, writer: EngineVersion) -> Self {
        let text = format!("this node {that}, but the log was written by Valkey {writer}: upgrade the node");
        Refusal::new(Code::OldEngine, text)
    }

    /// There is no shard `name`.
    pub fn no_shard(name: &str) -> Self {
        Refusal::new(Code::NoShard, format!("shard '{name}' does not exist"))
    }

    /// Reads an error line without its leading `-`. A first word that is not known counts as [`Code::Err`], with
    /// the whole line as detail.
    pub fn parse(line: &str) -> Self {
        let (word, detail) = line.split_once(' ').unwrap_or((line, ""));
        match Code::ALL.into_iter().find(|code| code.word() == word) {
            Some(code) => Refusal::new(code, detail),
            None => Refusal::new(Code::Err, line),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.word(), self.detail)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        for code in Code::ALL {
            let refusal = Refusal::new(code, "100 and a reason");
            assert_eq!(Refusal::parse(&refusal.to_string()), refusal);
        }
        assert_eq!(Refusal::parse("WRONGPASS no").code, Code::Err);
    }
}
