//! Both ends of a connection prove that they have the token without sending it: HMAC-SHA256 under the token, over everything that was said.
//!
//! Each proof names the role of its end, so that none can be sent back to where it came from, and covers both nonces, so that none can be
//! used again. That of who connects covers the name of the service that it means to reach, so that it cannot be passed on to another one.
//! With TLS, both cover a secret of the TLS connection as well, so that they hold for no other connection.

use ring::hmac;

use super::token::PeerToken;
use crate::replica::wire::{Begin, Challenge, Hello, Pieces, Proof};

/// The end that proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has connected, to the service of this name.
    Connects,
    /// It has accepted.
    Accepts,
}

/// What an end says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Its process.
    pub process: u64,
    /// Its service.
    pub hello: &'a Hello,
}

/// What was said on a connection before the proofs.
pub struct Said<'a> {
    /// By who connects.
    pub begin: &'a Begin,
    /// By who accepts.
    pub challenge: &'a Challenge,
    /// The name of the service that who connects means to reach.
    pub to: &'a str,
    /// A secret of the TLS connection; empty without TLS.
    pub channel: &'a [u8],
}

impl Said<'_> {
    /// The proof of an end that says `told`.
    pub fn prove(&self, token: &PeerToken, role: Role, told: Told<'_>) -> Proof {
        let mut proof = Proof::default();
        proof.copy_from_slice(hmac::sign(token.key(), &self.covered(role, told)).as_ref());
        proof
    }

    /// Whether `proof` is that of an end that says `told`. Takes as long whatever is wrong with it.
    pub fn is_proven(&self, token: &PeerToken, role: Role, told: Told<'_>, proof: &Proof) -> bool {
        hmac::verify(token.key(), &self.covered(role, told), proof).is_ok()
    }

    /// Each part has its length before it, so that no two different conversations are the same bytes.
    fn covered(&self, role: Role, told: Told<'_>) -> Vec<u8> {
        let role: &[u8] = match role {
            Role::Connects => b"valkey-durability peer connects",
            Role::Accepts => b"valkey-durability peer accepts",
        };
        let joined = |pieces: Pieces| pieces.finish().concat();
        let mut hello = Pieces::default();
        told.hello.encode(&mut hello);
        let parts = [
            role,
            &joined(self.begin.encode()),
            &joined(self.challenge.encode()),
            self.to.as_bytes(),
            self.channel,
            &told.process.to_le_bytes(),
            &joined(hello),
        ];
        let with_length = |part: &&[u8]| [&(part.len() as u64).to_le_bytes()[..], part].concat();
        parts.iter().flat_map(with_length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_nothing_but_what_was_said() {
        let token = PeerToken::of("a token of some length").expect("long enough");
        let begin = Begin { version: 1, lane: 0, nonce: [1; 32] };
        let challenge = Challenge { version: 1, nonce: [2; 32] };
        let hello = Hello { member: 5, name: "a".to_owned(), ..Hello::default() };
        let told = Told { process: 9, hello: &hello };
        let said = Said { begin: &begin, challenge: &challenge, to: "b", channel: b"" };
        let proof = said.prove(&token, Role::Connects, told);
        assert!(said.is_proven(&token, Role::Connects, told, &proof));
        let other_token = PeerToken::of("a token of some lengtH").expect("long enough");
        let other_hello = Hello { member: 6, ..hello.clone() };
        let other_begin = Begin { nonce: [3; 32], ..begin };
        let other_lane = Begin { lane: 1, ..begin };
        let other_challenge = Challenge { nonce: [3; 32], ..challenge };
        assert!(!said.is_proven(&other_token, Role::Connects, told, &proof));
        assert!(!said.is_proven(&token, Role::Accepts, told, &proof));
        assert!(!said.is_proven(&token, Role::Connects, Told { hello: &other_hello, ..told }, &proof));
        assert!(!said.is_proven(&token, Role::Connects, Told { process: 8, ..told }, &proof));
        let Said { begin, challenge, .. } = said;
        for other in [
            Said { begin: &other_begin, challenge, to: "b", channel: b"" },
            Said { begin: &other_lane, challenge, to: "b", channel: b"" },
            Said { begin, challenge: &other_challenge, to: "b", channel: b"" },
            Said { begin, challenge, to: "c", channel: b"" },
            Said { begin, challenge, to: "b", channel: b"x" },
        ] {
            assert!(!other.is_proven(&token, Role::Connects, told, &proof));
        }
        let mut bad = proof;
        bad[31] ^= 1;
        assert!(!said.is_proven(&token, Role::Connects, told, &bad));
    }
}
