//! How a connection begins. Nothing secret crosses the wire: each end proves that it has the token (`peers/proof.rs`).
//!
//! | frame | from | body |
//! |---|---|---|
//! | `Begin` | who connects | `vkpeer` (6), version (2), lane (1), nonce (32) |
//! | `Challenge` | who accepts | version (2), nonce (32) |
//! | `Introduction` | who connects | proof (32), process (8), name of the service that it means to reach, hello |
//! | `Welcome` | who accepts | proof (32), process (8), hello |
//! | `Refused` | either, instead | text |
//!
//! A hello is: member (8), 1 if the cluster is known (1), cluster (8), 1 if the service may be given a place (1), name, zone, clients' address,
//! HTTP address, peers' address. A text has its length (1) before it. Who connects proves first, so that a stranger who connects learns nothing from which the token could be guessed.

use super::fields::{Fields, Pieces};
use super::Malformed;

/// Both ends must have the same.
pub const VERSION: u16 = 2;
/// The longest body until both ends know each other.
pub const GREETING_BYTES: usize = 4 << 10;

const MAGIC: [u8; 6] = *b"vkpeer";

/// Drawn for one connection.
pub type Nonce = [u8; 32];
/// That an end has the token.
pub type Proof = [u8; 32];

/// Who a service is, as it tells its peers when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Its random id.
    pub member: u64,
    /// The cluster that it is of; none before there is one.
    pub cluster: Option<u64>,
    /// Its name in `--peers`.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Where clients reach it.
    pub client_address: String,
    /// Where its HTTP port is reached.
    pub http_address: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Whether it was started to be given the place of a service that is lost.
    pub joins: bool,
}

impl Hello {
    /// Writes it.
    pub fn encode(&self, to: &mut Pieces) {
        to.put_u64(self.member);
        to.put_u8(u8::from(self.cluster.is_some()));
        to.put_u64(self.cluster.unwrap_or(0));
        to.put_u8(u8::from(self.joins));
        let Hello { name, zone, client_address, http_address, peer_address, .. } = self;
        [name, zone, client_address, http_address, peer_address].into_iter().for_each(|text| to.put_text(text));
    }

    /// Reads it. It is the last in its frame.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(from: &mut Fields) -> Result<Self, Malformed> {
        let (member, is_known, cluster) = (from.u64()?, from.u8()?, from.u64()?);
        let cluster = match is_known {
            0 => None,
            1 => Some(cluster),
            _ => return Err(Malformed("its cluster is neither known nor unknown")),
        };
        let joins = match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("it neither joins nor does not")),
        };
        let (name, zone, client_address) = (from.text()?, from.text()?, from.text()?);
        let (http_address, peer_address) = (from.text()?, from.text()?);
        from.end()?;
        Ok(Hello { member, cluster, name, zone, client_address, http_address, peer_address, joins })
    }
}

/// The first frame of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// That of who connects.
    pub version: u16,
    /// What the connection is for.
    pub lane: u8,
    /// Drawn by who connects.
    pub nonce: Nonce,
}

impl Begin {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_slice(&MAGIC);
        to.put_u16(self.version);
        to.put_u8(self.lane);
        to.put_slice(&self.nonce);
        to
    }

    /// Reads it. Another version may have more in it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        if from.array()? != MAGIC {
            return Err(Malformed("it is no peer"));
        }
        let version = from.u16()?;
        if version != VERSION {
            return Ok(Begin { version, lane: 0, nonce: [0; 32] });
        }
        let begin = Begin { version, lane: from.u8()?, nonce: from.array()? };
        from.end()?;
        Ok(begin)
    }
}

/// The answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// That of who accepts.
    pub version: u16,
    /// Drawn by who accepts.
    pub nonce: Nonce,
}

impl Challenge {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_u16(self.version);
        to.put_slice(&self.nonce);
        to
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        let challenge = Challenge { version: from.u16()?, nonce: from.array()? };
        from.end()?;
        Ok(challenge)
    }
}

/// Who connects says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// That it has the token, over all that was said, `to` and `hello`.
    pub proof: Proof,
    /// Drawn by its process when it started.
    pub process: u64,
    /// The name of the service that it means to reach.
    pub to: String,
    /// Who it is.
    pub hello: Hello,
}

impl Introduction {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_slice(&self.proof);
        to.put_u64(self.process);
        to.put_text(&self.to);
        self.hello.encode(&mut to);
        to
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        Ok(Introduction {
            proof: from.array()?,
            process: from.u64()?,
            to: from.text()?,
            hello: Hello::decode(&mut from)?,
        })
    }
}

/// Who accepts says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// That it has the token, over all that was said, and `hello`.
    pub proof: Proof,
    /// Drawn by its process when it started.
    pub process: u64,
    /// Who it is.
    pub hello: Hello,
}

impl Welcome {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_slice(&self.proof);
        to.put_u64(self.process);
        self.hello.encode(&mut to);
        to
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        Ok(Welcome { proof: from.array()?, process: from.u64()?, hello: Hello::decode(&mut from)? })
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_text(&self.0);
        to
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        let text = from.text()?;
        from.end()?;
        Ok(Refusal(text))
    }
}
