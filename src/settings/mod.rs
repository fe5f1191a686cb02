//! The module's configuration: `durability.*` in valkey.conf and `CONFIG GET|SET`. Values only: `front/config_registration.rs` tells the
//! server about them.
//!
//! | file | |
//! |---|---|
//! | `configs.rs` | every config, declared once |
//! | `config_kinds.rs` | the kinds of configs: number, text, switch, mode |
//! | `compared.rs` | which settings of the server are compared among nodes |
//! | `mode.rs` | sync, async, off |
//! | `checks.rs` | what is a valid address or name |
//! | `arguments.rs` | the arguments of `loadmodule` |
//! | `tls.rs` | TLS on the way to the log |
//! | `token.rs` | the token that the node shows to its log |

pub mod arguments;
pub mod checks;
pub mod compared;
pub mod config_kinds;
pub mod configs;
pub mod mode;
pub mod tls;
pub mod token;

pub use crate::settings::checks::{is_same_place, parse_address, parse_services};
pub use crate::settings::compared::COMPARED;
pub use crate::settings::configs::*;
pub use crate::settings::mode::Mode;
