//! Why the log service refuses: the codes with which its errors begin.

use std::fmt;

use crate::EngineVersion;

/// Why the log service refused a command: the first word of its error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The epoch of the request is not the current one: another leader has taken over. Final for that epoch.
    Fenced,
    /// The offset of the request is not the log's end, or the log lacks what was durable in it, or has other bytes there. The detail begins
    /// with the end.
    Gap,
    /// This is another log than the one that the node has led or followed, although the shard has the same name. The detail begins with this
    /// log's id.
    OtherLog,
    /// Another node holds the lease, or it is reserved for another. The detail begins with that node's id, its address (`-` if it is
    /// unknown), and the milliseconds left (-1: it never expires).
    Leased,
    /// The node's server is older than the one that wrote the log, so it may not understand the stream.
    OldEngine,
    /// The disk of the log is full. Nothing of the request was written, and it can be sent again.
    NoSpace,
    /// A write or fsync of the log failed: the shard acknowledges nothing until the service is restarted.
    LogFailed,
    /// A replica cannot be given the stream at the moment. This is Valkey's own word, after which a server tries again and keeps its data.
    NoMasterLink,
    /// Another log service decides over this shard's log for the moment. The detail begins with that one's address, `-` if it is unknown.
    NotLeader,
    /// The slots that a shard claims of another one are not granted to it, and never will be by that job.
    NoGrant,
    /// There is no shard of that name, or the shard of this connection was dropped.
    NoShard,
    /// The client has not logged in, or its token is wrong or was removed.
    NoAuth,
    /// The role of the token does not allow the command. The detail names the role that is needed.
    NoPerm,
    /// Anything else: a malformed request.
    Err,
}

impl Code {
    const ALL: [Code; 14] = [
        Code::Fenced,
        Code::Gap,
        Code::OtherLog,
        Code::Leased,
        Code::OldEngine,
        Code::NoSpace,
        Code::LogFailed,
        Code::NoMasterLink,
        Code::NotLeader,
        Code::NoGrant,
        Code::NoShard,
        Code::NoAuth,
        Code::NoPerm,
        Code::Err,
    ];

    /// Its word in the reply.
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
            Code::NotLeader => "NOTLEADER",
            Code::NoGrant => "NOGRANT",
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
    /// The kind of refusal.
    pub code: Code,
    /// The rest of the line, for people.
    pub detail: String,
}

impl Refusal {
    /// A refusal of that code and detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Refusal { code, detail: detail.into() }
    }

    /// A node `that` (runs an older server, say) cannot follow or lead a log that `writer` wrote.
    pub fn old_engine(that: &str, writer: EngineVersion) -> Self {
        let text = format!("this node {that}, but the log was written by Valkey {writer}: upgrade the node");
        Refusal::new(Code::OldEngine, text)
    }

    /// There is no shard `name`.
    pub fn no_shard(name: &str) -> Self {
        Refusal::new(Code::NoShard, format!("shard '{name}' does not exist"))
    }

    /// Reads an error line without its leading `-`. An unknown first word counts as [`Code::Err`], with the whole line as detail.
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
