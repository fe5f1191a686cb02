//! The kinds of configs. Each holds everything there is to say of a config but its meaning, and its value as it is now.
//!
//! Values are read by any thread. They are set by the main thread, after [`crate::front`] has asked the node whether the change is allowed.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::Mutex;

use crate::settings::mode::Mode;

/// Finds what is wrong with a value, for the user to read.
pub type Check = fn(&str) -> Result<(), String>;

/// One config of any kind.
#[derive(Clone, Copy)]
pub enum Config {
    /// A number.
    Number(&'static Number),
    /// A text.
    Text(&'static Text),
    /// Yes or no.
    Switch(&'static Switch),
    /// The mode.
    Choice(&'static Choice),
}

impl Config {
    /// The name that follows `durability.`.
    pub fn name(self) -> &'static str {
        match self {
            Config::Number(config) => config.name,
            Config::Text(config) => config.name,
            Config::Switch(config) => config.name,
            Config::Choice(config) => config.name,
        }
    }

    /// Checks a value as it is written in valkey.conf, before the server has parsed it.
    ///
    /// # Errors
    /// What is wrong with it, for the user to read.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Config::Number(config) => config.parse(value).map(drop),
            Config::Text(config) => (config.check)(value),
            Config::Switch(_) => Switch::parse(value).map(drop),
            Config::Choice(_) => Choice::parse(value).map(drop),
        }
    }
}

/// A number within bounds.
pub struct Number {
    /// The name that follows `durability.`.
    pub name: &'static str,
    /// Its value unless it is configured.
    pub default: i64,
    /// Its least value.
    pub least: i64,
    /// Its largest value.
    pub most: i64,
    /// Whether it is a number of bytes, for which valkey.conf knows units.
    pub is_bytes: bool,
    value: AtomicI64,
}

impl Number {
    /// A plain number. The range holds no negative ones.
    pub const fn new(name: &'static str, default: i64, range: RangeInclusive<i64>) -> Self {
        let (least, most) = (*range.start(), *range.end());
        assert!(0 <= least && least <= default && default <= most);
        Number { name, default, least, most, is_bytes: false, value: AtomicI64::new(default) }
    }

    /// A number of bytes.
    pub const fn bytes(name: &'static str, default: i64, range: RangeInclusive<i64>) -> Self {
        Number { is_bytes: true, ..Number::new(name, default, range) }
    }

    /// The value as it is now.
    #[inline]
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed).unsigned_abs()
    }

    /// Sets the value. The caller has checked the bounds.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Parses a plain number within the bounds.
    ///
    /// # Errors
    /// What is wrong with it, for the user to read.
    pub fn parse(&self, value: &str) -> Result<i64, String> {
        let within = value.parse().ok().filter(|number| (self.least..=self.most).contains(number));
        within.ok_or_else(|| format!("'{value}' is not a number from {} to {}", self.least, self.most))
    }
}

/// What a new text needs in a server that runs, beyond a valid value.
pub enum Change {
    /// Nothing.
    Free,
    /// A restart: the text names the node's log.
    Restart,
    /// That this finds nothing wrong. A server that starts may come before the file that the text names, and waits for it.
    Checked(Check),
}

/// A text.
pub struct Text {
    /// The name that follows `durability.`.
    pub name: &'static str,
    /// Its value unless it is configured.
    pub default: &'static str,
    /// What every value has to pass.
    pub check: Check,
    /// What a new value needs in a server that runs.
    pub change: Change,
    /// Whether the server keeps it out of its own log.
    pub is_secret: bool,
    value: Mutex<String>,
}

impl Text {
    /// A text that may be changed at any time.
    pub const fn new(name: &'static str, default: &'static str, check: Check) -> Self {
        Text { name, default, check, change: Change::Free, is_secret: false, value: Mutex::new(String::new()) }
    }

    /// As [`Text::new`], with what a new value needs in a server that runs.
    pub const fn changed_by(name: &'static str, default: &'static str, check: Check, change: Change) -> Self {
        Text { name, default, check, change, is_secret: false, value: Mutex::new(String::new()) }
    }

    /// A text that the server shows to nobody but `CONFIG GET`.
    pub const fn secret(name: &'static str) -> Self {
        let (check, change) = (anything as Check, Change::Free);
        Text { name, default: "", check, change, is_secret: true, value: Mutex::new(String::new()) }
    }

    /// The value as it is now; empty before the module's configuration was loaded.
    pub fn value(&self) -> String {
        self.value.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Sets the value. The caller has checked it.
    pub fn set(&self, value: &str) {
        value.clone_into(&mut self.value.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

/// Takes any text.
///
/// # Errors
/// None.
pub fn anything(_: &str) -> Result<(), String> {
    Ok(())
}

/// Yes or no.
pub struct Switch {
    /// The name that follows `durability.`.
    pub name: &'static str,
    /// Its value unless it is configured.
    pub default: bool,
    /// Whether a server that runs can switch it on only if it can keep to a lease.
    pub needs_lease: bool,
    /// Whether a new value needs a restart.
    pub needs_restart: bool,
    value: AtomicBool,
}

impl Switch {
    /// A switch that is off by default and may be changed at any time.
    pub const fn new(name: &'static str) -> Self {
        Switch::with_default(name, false)
    }

    /// A switch that may be changed at any time.
    pub const fn with_default(name: &'static str, default: bool) -> Self {
        Switch { name, default, needs_lease: false, needs_restart: false, value: AtomicBool::new(default) }
    }

    /// A switch that makes the node depend on its lease.
    pub const fn needing_lease(name: &'static str) -> Self {
        Switch { needs_lease: true, ..Switch::new(name) }
    }

    /// A switch that is set when the server starts, and stays.
    pub const fn fixed(name: &'static str) -> Self {
        Switch { needs_restart: true, ..Switch::new(name) }
    }

    /// Whether it is on now.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.value.load(Ordering::Relaxed)
    }

    /// Switches it on or off.
    pub fn set(&self, is_on: bool) {
        self.value.store(is_on, Ordering::Relaxed);
    }

    /// Parses yes or no.
    ///
    /// # Errors
    /// What is wrong with it, for the user to read.
    pub fn parse(value: &str) -> Result<bool, String> {
        match value {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(format!("'{value}' is neither yes nor no")),
        }
    }
}

/// A mode. A node that runs has to be able to change to it.
pub struct Choice {
    /// The name that follows `durability.`.
    pub name: &'static str,
    /// Its value unless it is configured.
    pub default: Mode,
    value: AtomicU8,
}

impl Choice {
    /// With that mode unless another is configured.
    pub const fn new(name: &'static str, default: Mode) -> Self {
        Choice { name, default, value: AtomicU8::new(default as u8) }
    }

    /// The mode that is configured.
    pub fn mode(&self) -> Mode {
        let value = self.value.load(Ordering::Relaxed);
        Mode::ALL.into_iter().find(|mode| *mode as u8 == value).unwrap_or(self.default)
    }

    /// Sets the mode.
    pub fn set(&self, mode: Mode) {
        self.value.store(mode as u8, Ordering::Relaxed);
    }

    /// Parses the name of a mode.
    ///
    /// # Errors
    /// What is wrong with it, for the user to read.
    pub fn parse(value: &str) -> Result<Mode, String> {
        let named = Mode::ALL.into_iter().find(|mode| mode.name() == value);
        named.ok_or_else(|| format!("'{value}' is none of {}", Mode::ALL.map(Mode::name).join(", ")))
    }
}
