//! The server's module API, as far as the `valkey-module` crate does not wrap it. Main thread only. Subscriptions stand in
//! `server/events/`, and what is done with keys in `server/keys.rs`.

mod calls;
mod clients;
mod functions;
mod users;

pub use calls::{call, config, configs, is_calling, is_replica, is_within_command, modules, replication_offset, role};
pub use clients::{
    client_flags, client_list, client_place, executes_for_primary, is_connected_primary, loads_for_module, receivers,
    ClientFlags,
};
pub(crate) use functions::api;
pub use functions::{add_latency, bytes, cached_time_ms, filtered_argument, select_database, version};
pub use users::{may_run, user_names, user_rules, TapUser};
