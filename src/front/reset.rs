//! What is forgotten when the module is loaded again. The server keeps the library mapped when it unloads the module, so every `static` keeps
//! its value. A test below names each of them: it is reset here, or it stays, for a reason.

use crate::decide::taken_replies;
use crate::exchange::lease_clock;
use crate::hooks;
use crate::node::{command_filter, ran_commands, tasks};
use crate::server::cluster::bus_messages;
use crate::server::groups::GROUPS;
use crate::server::{
    half_closed, handed_over, held_table, hidden_replica, late_holds, named_link, propagation, read_pause,
    running_client,
};

/// Forgets everything that an earlier life of the module knew. Main thread, while the module loads.
pub fn forget_earlier_life() {
    forget_connections();
    taken_replies::set_log_is_slow(false);
    taken_replies::acknowledged();
    hooks::forget_all();
    ran_commands::forget_all();
    command_filter::forget_all();
    tasks::forget_settings();
    propagation::wait_for_cause(false);
    running_client::forget_all();
    read_pause::forget_all();
    named_link::forget_all();
    hidden_replica::forget_all();
    late_holds::withhold_notifications(false);
    lease_clock::not_needed();
    lease_clock::answer_nobody_beyond_it();
}

/// Forgets all connections, and how far groups of writes have come. Main thread, when no reply is held and none will be.
pub fn forget_connections() {
    handed_over::forget_all();
    bus_messages::forget_all();
    half_closed::closing::forget_all();
    held_table::forget_all();
    // After that: a thread that is on its way through an entry would hold what was released before.
    GROUPS.reset();
    late_holds::take();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Those that are reset above, by the folder or file of `src/` in which they stand.
    const RESET: &[(&str, &str)] = &[
        ("decide", "LEFT_SINCE"),
        ("decide", "LOG_IS_SLOW"),
        ("exchange", "LAST_CLIENT"),
        ("exchange", "LEASE"),
        ("exchange", "UNTIL"),
        ("exchange", "WAS_REFUSED"),
        ("hooks", "TASKS_WAIT"),
        ("node", "DATA_ERROR"),
        ("node", "LAST_PRIMARY"),
        ("node", "LEVEL"),
        ("node", "LOOK"),
        ("node", "NEXT_ERROR"),
        ("node", "MISSED_A_WRITE"),
        ("node", "REFUSED_COMMANDS"),
        ("node", "STREAM"),
        ("node", "TAKEN"),
        ("node", "THREAD_WROTE"),
        ("node", "TRANSACTIONS"),
        ("server", "CLIENTS"),
        ("server", "CLOSING"),
        ("server", "GROUPS"),
        ("server", "HAS_CLOSING"),
        ("server", "HAS_LATE_HOLDS"),
        ("server", "HIDDEN"),
        ("server", "HOLDS_BUS"),
        ("server", "HOLDS_CLIENTS"),
        ("server", "IS_USED"),
        ("server", "KNOWS_CLIENTS"),
        ("server", "LATE_HOLDS"),
        ("server", "LINK"),
        ("server", "LINKS"),
        ("server", "OWN_PORTS"),
        ("server", "READS"),
        ("server", "TABLE"),
        ("server", "WAITING"),
        ("server", "WAITS_FOR_CAUSE"),
        ("server", "WITHHOLDS_NOTIFICATIONS"),
        ("server", "WRITES"),
    ];

    /// Those that stay, and why.
    const STAYS: &[(&str, &str, &str)] = &[
        ("base", "HAS_FAILED", "what has panicked is in no known state until the server restarts"),
        ("decide", "TOTAL", "counts what the held connections have taken, and is 0 once they are forgotten"),
        ("exchange", "SHARED", "is set when the module is loaded and unloaded"),
        ("front", "FIELDS", "is a list"),
        ("log", "SYSTEM", "the system's resolver serves any module"),
        (
            "node",
            "CLIENTS",
            "what a client announced holds for as long as it is connected, and ids are not given twice",
        ),
        ("node", "IS_CHANGING_ROLE", "is set only during a call"),
        ("node", "MODULE", "is set when the module is loaded and unloaded"),
        ("node", "OTHERS", "a client that is not the primary never becomes it"),
        ("node", "TASKS", "is set when the module is loaded"),
        ("server", "BUS_CONNECT_HANDLER", "the functions of the server are those of the process"),
        ("server", "BUS_READ_HANDLER", "the functions of the server are those of the process"),
        ("server", "CHANGED", "what the server did not take back is still to be set back"),
        ("server", "CLUSTER_FUNCTIONS", "the functions of the server are those of the process"),
        ("server", "CONFIG_CHECK", "is the same function in every life"),
        ("server", "FOUND", "the process has one OpenSSL"),
        ("server", "INTERNALS", "the functions of the server are those of the process"),
        ("server", "IS_CALLING", "is set only during a call"),
        ("server", "IS_CLUSTER", "is set when the module is loaded"),
        ("server", "IS_TURNED", "is set only while the server loads"),
        ("server", "KEEPS_MANY", "is set when the module is loaded"),
        ("server", "LAYOUT", "the insides of the process do not change"),
        ("server", "MAIN_THREAD", "the process has one main thread"),
        ("server", "OF_MODULE", "is set when the module is loaded"),
        ("server", "ONCE", "what is to run in a forked child cannot be taken back"),
        ("server", "OWNER", "belongs to CHANGED"),
        ("server", "REGISTER", "is set before the module registers its configs"),
        ("server", "TABLES", "what the server's tables held before the first load is what belongs there"),
        ("server", "VERIFIED", "the insides of the process do not change"),
        ("server", "WHY_IMPOSSIBLE", "names of commands do not change while the server runs"),
        ("settings", "CONFIGS", "is a list; the server sets the values at each load"),
        ("settings", "LOGGED", "limits how often the same is logged"),
        ("settings", "SERVER_HAS_TLS", "is set when the module is loaded"),
        ("settings", "WARNED_OF", "the operator was warned in this server's log"),
    ];

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("the sources").map(|entry| entry.expect("an entry").path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        files.into_iter().chain(folders.iter().flat_map(|folder| sources(folder))).collect()
    }

    /// The name of the static that is declared in that line.
    fn declared(line: &str) -> Option<&str> {
        let line = line.trim_start();
        let line = line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches("(crate)").trim_start());
        let (name, _) = line.strip_prefix("static ")?.split_once(':')?;
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_').then_some(name)
    }

    /// Every static outside of tests. Values of configs are set by the server at each load.
    fn statics() -> BTreeSet<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = BTreeSet::new();
        let is_code = |file: &PathBuf| !file.to_string_lossy().ends_with("_tests.rs");
        for file in sources(&root).into_iter().filter(is_code) {
            let text = fs::read_to_string(&file).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let room = file.strip_prefix(&root).expect("a path below src").components().next().expect("a component");
            let room = room.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
            let is_config = |line: &str| room == "settings" && line.starts_with("pub static");
            let names = code.lines().filter(|line| !is_config(line)).filter_map(declared);
            found.extend(names.map(|name| (room.clone(), name.to_owned())));
        }
        found
    }

    #[test]
    fn every_static_is_reset_when_the_module_is_loaded_again_or_stays_for_a_reason() {
        let reset = RESET.iter().map(|(room, name)| ((*room).to_owned(), (*name).to_owned()));
        let stays = STAYS.iter().map(|(room, name, _)| ((*room).to_owned(), (*name).to_owned()));
        let listed: BTreeSet<_> = reset.chain(stays).collect();
        let found = statics();
        assert!(found.len() > 40, "the sources are not read: {found:?}");
        let unlisted: Vec<_> = found.difference(&listed).collect();
        assert!(unlisted.is_empty(), "reset these in front/reset.rs, or say why they stay: {unlisted:?}");
        let gone: Vec<_> = listed.difference(&found).collect();
        assert!(gone.is_empty(), "these are listed in front/reset.rs and gone: {gone:?}");
    }
}
