//! Settings of newer servers that change what the module's replication connection gets. A server without such a setting says nothing for it.
//!
//! Valkey 9.2 compresses the stream for replicas that ask for it (`REPLCONF capa lz4`, `zstd`; `repl-compression`): the module's connection asks
//! for nothing of the kind, so it always gets the plain stream. Two settings concern it all the same.

use valkey_module::Context;

use crate::server::api;

/// Formats of `rdbcompression` that compress values one by one, so that every replica reads the file.
const PLAIN_FORMATS: [&str; 4] = ["", "yes", "no", "lzf"];

/// Why the server's settings allow no log, for the operator to read; none if they do. Main thread.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    why_impossible(|name| api::config(ctx, name))
}

fn why_impossible(value: impl Fn(&str) -> String) -> Option<String> {
    if value("repl-throttling-enabled") == "yes" {
        return Some(
            "repl-throttling-enabled yes would slow writes down by how far this module's own replication connection is behind, beside \
             durability.max-lag-ms and max-pending-bytes: set repl-throttling-enabled no, or durability.mode off"
                .to_owned(),
        );
    }
    let format = value("rdbcompression");
    (!PLAIN_FORMATS.contains(&format.as_str())).then(|| {
        format!(
            "rdbcompression {format} compresses whole snapshots, which the module's replication connection does not take: set rdbcompression yes, \
             or durability.mode off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server answers that has these settings and no other.
    fn judge(settings: &[(&str, &str)]) -> Option<String> {
        why_impossible(|name| {
            settings.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value).to_owned()
        })
    }

    #[test]
    fn servers_that_know_no_such_setting_can_have_a_log() {
        for settings in [vec![], vec![("rdbcompression", "yes")], vec![("rdbcompression", "no")]] {
            assert_eq!(judge(&settings), None);
        }
        assert_eq!(judge(&[("repl-throttling-enabled", "no"), ("rdbcompression", "lzf")]), None);
    }

    #[test]
    fn a_setting_that_is_in_the_way_is_named() {
        for setting in [("repl-throttling-enabled", "yes"), ("rdbcompression", "lz4"), ("rdbcompression", "zstd")] {
            let why = judge(&[setting]).expect("a reason");
            assert!(why.contains(&format!("{} {}", setting.0, setting.1)), "{why}");
        }
    }
}
