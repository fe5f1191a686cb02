//! How a connection begins: both ends say who they are, and prove that they have the token.

use std::sync::Arc;

use super::error::ConnectionError;
use super::framed::{FrameReader, FrameWriter};
use super::proof::{Role, Said, Told};
use super::registry::Presence;
use super::shared::{Lane, Shared};
use crate::replica::wire::{Begin, Challenge, Frame, Hello, Introduction, Kind, Malformed, Nonce, Welcome, VERSION};

/// A connection whose other end is known.
pub struct Greeted {
    /// Who is there.
    pub hello: Hello,
    /// What it is for.
    pub lane: Lane,
    /// Counts it.
    pub presence: Presence,
}

/// What a stranger is told. It does not say what is wrong.
const STRANGER: &str = "the --peer-token files differ, or this is no peer";

/// Begins a connection to the service of that name. `own` is what this one tells.
pub async fn connect(
    shared: &Arc<Shared>,
    (reader, writer): (&mut FrameReader, &mut FrameWriter),
    (name, lane): (&str, Lane),
    channel: &[u8],
    own: &Hello,
) -> Result<Greeted, ConnectionError> {
    let begin = Begin { version: VERSION, lane: lane as u8, nonce: nonce()? };
    writer.send(Kind::Begin, begin.encode()).await?;
    let challenge = Challenge::decode(expect(reader, Kind::Challenge).await?.body)?;
    if challenge.version != VERSION {
        return Err(ConnectionError::Refuse(versions(challenge.version)));
    }
    let said = Said { begin: &begin, challenge: &challenge, to: name, channel };
    let process = shared.process;
    let proof = said.prove(&shared.token, Role::Connects, Told { process, hello: own });
    let introduction = Introduction { proof, process, to: name.to_owned(), hello: own.clone() };
    writer.send(Kind::Introduction, introduction.encode()).await?;
    let Welcome { proof, process, hello } = Welcome::decode(expect(reader, Kind::Welcome).await?.body)?;
    if !said.is_proven(&shared.token, Role::Accepts, Told { process, hello: &hello }, &proof) {
        return Err(ConnectionError::Refuse(STRANGER.to_owned()));
    }
    let entered = match hello.name == name {
        true => shared.registry.enter(&hello, process).await,
        false => Err(wrong_name(&hello.name, name)),
    };
    let presence = refuse_unless(entered, writer).await?;
    reader.trust();
    Ok(Greeted { hello, lane, presence })
}

/// Takes a connection. Returns as soon as the other end is known; `known` is told before that, and says whether the connection goes on.
pub async fn accept(
    shared: &Arc<Shared>,
    (reader, writer): (&mut FrameReader, &mut FrameWriter),
    channel: &[u8],
    known: impl FnOnce() -> bool,
) -> Result<Greeted, ConnectionError> {
    let begin = Begin::decode(expect(reader, Kind::Begin).await?.body)?;
    let lane = Lane::ALL.into_iter().find(|lane| *lane as u8 == begin.lane);
    let lane = match (begin.version, lane) {
        (VERSION, Some(lane)) => Ok(lane),
        (VERSION, None) => Err("the connection is for nothing that is known".to_owned()),
        (version, _) => Err(versions(version)),
    };
    let lane = refuse_unless(lane, writer).await?;
    let challenge = Challenge { version: VERSION, nonce: nonce()? };
    writer.send(Kind::Challenge, challenge.encode()).await?;
    let introduction = Introduction::decode(expect(reader, Kind::Introduction).await?.body)?;
    let Introduction { proof, process, to, hello } = introduction;
    let said = Said { begin: &begin, challenge: &challenge, to: &to, channel };
    let proven = match said.is_proven(&shared.token, Role::Connects, Told { process, hello: &hello }, &proof) {
        true => Ok(()),
        false => Err(STRANGER.to_owned()),
    };
    refuse_unless(proven, writer).await?;
    if !known() {
        return Err(ConnectionError::Closed);
    }
    let own = shared.registry.own().borrow().clone();
    let entered = match to == own.name {
        true => shared.registry.enter(&hello, process).await,
        false => Err(wrong_name(&own.name, &to)),
    };
    let presence = refuse_unless(entered, writer).await?;
    let process = shared.process;
    let proof = said.prove(&shared.token, Role::Accepts, Told { process, hello: &own });
    writer.send(Kind::Welcome, Welcome { proof, process, hello: own }.encode()).await?;
    reader.trust();
    Ok(Greeted { hello, lane, presence })
}

async fn expect(reader: &mut FrameReader, kind: Kind) -> Result<Frame, ConnectionError> {
    let frame = reader.next().await?;
    match frame.kind == kind {
        true => Ok(frame),
        false => Err(Malformed("a connection does not begin like this").into()),
    }
}

async fn refuse_unless<T>(checked: Result<T, String>, writer: &mut FrameWriter) -> Result<T, ConnectionError> {
    match checked {
        Ok(checked) => Ok(checked),
        Err(why) => {
            writer.refuse(&why).await;
            Err(ConnectionError::Refuse(why))
        }
    }
}

fn nonce() -> Result<Nonce, ConnectionError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    Ok(nonce)
}

fn versions(theirs: u16) -> String {
    format!("one service speaks version {theirs} of the peers' protocol, the other {VERSION}: upgrade the older one")
}

fn wrong_name(found: &str, wanted: &str) -> String {
    format!(
        "the service at that address is {found}, not {wanted}: the --peers of the two differ, or an address is wrong"
    )
}
