//! What a node tells of its users and its settings, with [`NODE`](crate::NODE), so that the service can compare the nodes of a shard.
//!
//! Users and configuration are each node's own, and neither is in the log. What differs between the nodes of a shard shows only when
//! another one leads. The service knows no names: it compares what two nodes name alike, so nodes of several versions fit.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest as _, Sha256};

/// Longest text of settings, in bytes.
pub const MAX_SETTINGS_BYTES: usize = 4096;
/// The most settings in a text.
const MAX_SETTINGS: usize = 64;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 48;
/// Longest value that is told as it is, in bytes.
const MAX_VALUE_BYTES: usize = 80;
/// What the value of a setting begins with that is told as a digest.
const DIGEST: char = '#';

/// Settings of a node, by name. Values are for comparison and for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSettings(BTreeMap<String, String>);

/// A setting in which two nodes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDifference<'a> {
    /// Its name.
    pub name: &'a str,
    /// The value at the first of the two.
    pub value: &'a str,
    /// The value at the other.
    pub other: &'a str,
}

impl NodeSettings {
    /// Adds a setting, or replaces it. A value that is long, or has letters for which the text has no room, is replaced by its digest. A name
    /// that is none is left out.
    pub fn add(&mut self, name: &str, value: &str) {
        if is_value(value) && !value.starts_with(DIGEST) {
            self.insert(name, value.to_owned());
        } else {
            self.add_digest(name, SettingsDigest::new("").with(value));
        }
    }

    /// As [`NodeSettings::add`], for what must not be told.
    pub fn add_digest(&mut self, name: &str, digest: SettingsDigest) {
        self.insert(name, format!("{DIGEST}{}", digest.text()));
    }

    fn insert(&mut self, name: &str, value: String) {
        if is_name(name) && (self.0.len() < MAX_SETTINGS || self.0.contains_key(name)) {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// A value as people may see it: empty if it is a digest.
    pub fn shown(value: &str) -> &str {
        if value.starts_with(DIGEST) {
            ""
        } else {
            value
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they are sent: `acl=#1f…,maxmemory=0,…`. Settings that have no room are left out.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            if text.len() + name.len() + value.len() + 2 > MAX_SETTINGS_BYTES {
                break;
            }
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{name}={value}");
        }
        text
    }

    /// Reads what a node of any version sends.
    ///
    /// # Errors
    /// What is wrong with it: it is too long, has too many parts, or a part is no name and value.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SETTINGS_BYTES {
            return Err(format!("settings have {MAX_SETTINGS_BYTES} bytes at most"));
        }
        let mut settings = NodeSettings::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or("settings are name=value, with commas between them")?;
            if !is_name(name) || !is_value(value) {
                return Err(format!(
                    "a setting has a name of a-z 0-9 . - and {MAX_NAME_BYTES} bytes at most, and a value of {MAX_VALUE_BYTES} at most"
                ));
            }
            settings.0.insert(name.to_owned(), value.to_owned());
        }
        if settings.0.len() > MAX_SETTINGS {
            return Err(format!("{MAX_SETTINGS} settings at most"));
        }
        Ok(settings)
    }

    /// In what they differ from `other`, in order of the names. What only one of the two tells is no difference: it may be of another version.
    pub fn differences<'a>(&'a self, other: &'a NodeSettings) -> impl Iterator<Item = SettingDifference<'a>> + 'a {
        self.0.iter().filter_map(|(name, value)| {
            let other = other.0.get(name).filter(|other| *other != value)?;
            Some(SettingDifference { name, value, other })
        })
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_letter)
}

fn is_value(value: &str) -> bool {
    let is_letter = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b',';
    value.len() <= MAX_VALUE_BYTES && value.bytes().all(is_letter)
}

/// A digest of texts that must not be told, such as users with the hashes of their passwords.
///
/// It begins with a key that is the same at all nodes of a shard, so the digest of one shard says nothing of another, and no table that is
/// made in advance helps. It is the first 8 bytes of a SHA-256, as hexadecimal digits.
#[derive(Clone)]
pub struct SettingsDigest(Sha256);

impl SettingsDigest {
    /// Nothing is digested yet.
    pub fn new(key: &str) -> Self {
        SettingsDigest(Sha256::new()).with(key)
    }

    /// Adds a text. Two texts are not the same as one with the bytes of both.
    pub fn add(&mut self, text: &[u8]) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn with(mut self, text: &str) -> Self {
        self.add(text.as_bytes());
        self
    }

    /// The digest.
    pub fn text(self) -> String {
        let digest = self.0.finalize();
        digest.iter().take(8).fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> NodeSettings {
        let mut settings = NodeSettings::default();
        for (name, value) in pairs {
            settings.add(name, value);
        }
        settings
    }

    #[test]
    fn settings_survive_their_text() {
        let long = "x".repeat(500);
        let told = settings(&[
            ("maxmemory", "0"),
            ("client-output-buffer-limit", "normal 0 0 0"),
            ("modules", &long),
            ("a", "1,2"),
        ]);
        let text = told.text();
        assert!(text.starts_with("a=") && text.contains(",client-output-buffer-limit=normal 0 0 0,"), "{text}");
        assert!(!text.contains("1,2") && !text.contains("xx"), "{text}");
        assert_eq!(text.matches("=#").count(), 2, "{text}");
        assert_eq!(NodeSettings::parse(&text), Ok(told));
    }

    #[test]
    fn as_many_and_as_long_as_they_may_be_still_are_a_text() {
        let mut many = NodeSettings::default();
        for number in 0..100 {
            many.add(&format!("{number:02}{}", "n".repeat(40)), &"v".repeat(MAX_VALUE_BYTES));
        }
        assert!(NodeSettings::parse(&many.text()).is_ok());
    }

    #[test]
    fn what_both_tell_is_compared() {
        let one = settings(&[("maxmemory", "0"), ("databases", "16"), ("of-a-later-version", "1")]);
        let other = settings(&[("maxmemory", "100"), ("databases", "16"), ("of-an-earlier-version", "1")]);
        let differences: Vec<_> = one.differences(&other).collect();
        assert_eq!(differences, [SettingDifference { name: "maxmemory", value: "0", other: "100" }]);
        assert_eq!(one.differences(&one).count(), 0);
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        let many = (0..65).map(|number| format!("n{number}=1")).collect::<Vec<_>>().join(",");
        for bad in ["", "maxmemory", "=1", "UPPER=1", "a=1,,b=2", "a=\u{e4}", "a=\n", &"a".repeat(5000), &many] {
            assert!(NodeSettings::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_text_is_settings_or_an_error() {
        bolero::check!().with_type::<String>().for_each(|text| {
            if let Ok(settings) = NodeSettings::parse(text) {
                assert_eq!(NodeSettings::parse(&settings.text()), Ok(settings));
            }
        });
    }

    #[test]
    fn a_digest_depends_on_the_key_and_on_where_texts_end() {
        let digest = |key: &str, texts: &[&str]| {
            let mut digest = SettingsDigest::new(key);
            texts.iter().for_each(|text| digest.add(text.as_bytes()));
            digest.text()
        };
        assert_eq!(digest("k", &["a", "b"]), digest("k", &["a", "b"]));
        assert_ne!(digest("k", &["a", "b"]), digest("k", &["ab"]));
        assert_ne!(digest("k", &["a", "b"]), digest("l", &["a", "b"]));
        assert_eq!(digest("", &[]).len(), 16);
    }
}
