use std::sync::{Arc, LazyLock};

use logservice::encryption::KeyRing;

static KEYS: LazyLock<Arc<KeyRing>> = LazyLock::new(|| {
    KeyRing::of_text("k1 8f3b6c1d2e4a59687706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0").expect("parses")
});

/// The keys of all logs of these tests.
pub fn keys() -> Arc<KeyRing> {
    KEYS.clone()
}
