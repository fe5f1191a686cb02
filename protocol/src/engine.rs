//! Versions of valkey-server, and whether one reads what another wrote.

use std::fmt;
use std::str::FromStr;

use crate::Refusal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of a Valkey server, as `9.1.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineVersion {
    /// Grows with incompatible changes.
    pub major: u16,
    /// Grows with new commands and encodings.
    pub minor: u16,
    /// Grows with corrections only.
    pub patch: u16,
}

impl EngineVersion {
    /// Whether a server of this version can apply what a server of version `writer` wrote. Versions that differ only in the patch read each
    /// other's commands and snapshots, so that a patch can be taken back.
    pub fn reads(self, writer: EngineVersion) -> bool {
        (self.major, self.minor) >= (writer.major, writer.minor)
    }

    /// Refuses a node of this version if it cannot apply what a server of version `writer` wrote.
    ///
    /// # Errors
    /// [`Code::OldEngine`](crate::Code::OldEngine), with both versions.
    pub fn check_reads(self, writer: EngineVersion) -> Result<(), Refusal> {
        if self.reads(writer) {
            return Ok(());
        }
        Err(Refusal::old_engine(&format!("runs Valkey {self}"), writer))
    }

    /// Whether `other` differs in the patch at most.
    pub fn is_like(self, other: EngineVersion) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

/// The text is no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAVersion;

impl FromStr for EngineVersion {
    type Err = NotAVersion;

    /// Reads `major.minor.patch`, and ignores what follows a `-` (a release candidate).
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let numbers = text.split_once('-').map_or(text, |(numbers, _)| numbers);
        let mut parts = numbers.split('.').map(|part| part.parse().map_err(|_| NotAVersion));
        let mut next = || parts.next().unwrap_or(Err(NotAVersion));
        let version = EngineVersion { major: next()?, minor: next()?, patch: next()? };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(NotAVersion),
        }
    }
}

impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for NotAVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a version such as 9.1.2")
    }
}

impl std::error::Error for NotAVersion {}

impl Serialize for EngineVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EngineVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> EngineVersion {
        text.parse().expect("a version")
    }

    #[test]
    fn an_older_minor_version_cannot_read_but_another_patch_can() {
        assert!(version("9.1.0").reads(version("9.1.2")) && version("9.2.0").reads(version("9.1.2")));
        assert!(version("10.0.0").reads(version("9.9.9")));
        assert!(!version("9.0.9").reads(version("9.1.0")) && !version("8.9.9").reads(version("9.0.0")));
        assert!(version("9.1.2") > version("9.1.1") && version("9.10.0") > version("9.9.0"));
    }

    #[test]
    fn a_version_survives_its_own_text() {
        assert_eq!(version("9.1.2").to_string(), "9.1.2");
        assert_eq!(version("9.2.0-rc1"), version("9.2.0"));
        for bad in ["", "9", "9.1", "9.1.2.3", "9.x.1", "-1.0.0", "9.1.99999"] {
            assert_eq!(bad.parse::<EngineVersion>(), Err(NotAVersion), "{bad:?}");
        }
    }
}
