//! How durable an answered write is.

/// How durable an answered write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// A reply leaves only when the log has acknowledged what it depends on.
    Sync,
    /// Replies leave at once; writes are refused when the log is too far behind.
    Async,
    /// As without the module.
    Off,
}

impl Mode {
    /// All modes, in the order in which error messages name them.
    pub const ALL: [Mode; 3] = [Mode::Sync, Mode::Async, Mode::Off];

    /// The word for it in valkey.conf.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
            Mode::Off => "off",
        }
    }
}
