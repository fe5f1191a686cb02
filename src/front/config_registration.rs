//! Tells the server about the configs, and asks the node before one of them changes. Main thread only.

use valkey_module::configuration::{
    register_bool_configuration, register_enum_configuration, register_i64_configuration,
    register_string_configuration, ConfigurationContext, ConfigurationFlags, ConfigurationValue,
    EnumConfigurationValue,
};
use valkey_module::{Context, ValkeyError, ValkeyString};

use crate::node::{self, mode_change};
use crate::server::cluster;
use crate::server::config_apply::{self, ConfigCheck};
use crate::settings::arguments::Arguments;
use crate::settings::config_kinds::{Change, Choice, Config, Number, Switch, Text};
use crate::settings::{self, tls, token, Mode, CONFIGS};

/// The configs of the connection to the log can be set one by one, in any order, within one `CONFIG SET`. Together they have to be usable
/// by the next connection.
const CONNECTION_CHECK: ConfigCheck =
    ConfigCheck { concerns: |name| name.starts_with("tls") || name.starts_with("auth"), check: check_connection };

/// Registers all configs, and sets them to what the server's configuration file, the arguments of `loadmodule`, or else their defaults say.
///
/// # Errors
/// A value is not valid. The server says by itself if that is one of its configuration file.
pub fn register(ctx: &Context, arguments: &Arguments) -> Result<(), String> {
    config_apply::check_configs(CONNECTION_CHECK);
    for config in CONFIGS {
        register_one(ctx, *config, arguments.value(config.name()))?;
    }
    config_apply::load_configs(ctx);
    Ok(())
}

/// Registers a config, with what `loadmodule` gives as its default.
fn register_one(ctx: &Context, config: Config, given: Option<&str>) -> Result<(), String> {
    match config {
        Config::Number(number) => {
            let default = given.map_or(Ok(number.default), |value| number.parse(value))?;
            let flags = if number.is_bytes { ConfigurationFlags::MEMORY } else { ConfigurationFlags::DEFAULT };
            let (least, most) = (number.least, number.most);
            register_i64_configuration(ctx, number.name, number, default, least, most, flags, None, None);
        }
        Config::Text(text) => {
            let default = given.unwrap_or(text.default);
            let flags = if text.is_secret { ConfigurationFlags::SENSITIVE } else { ConfigurationFlags::DEFAULT };
            register_string_configuration(ctx, text.name, text, default, flags, None, None);
        }
        Config::Switch(switch) => {
            let default = given.map_or(Ok(switch.default), Switch::parse)?;
            let flags = if switch.needs_restart { ConfigurationFlags::IMMUTABLE } else { ConfigurationFlags::DEFAULT };
            register_bool_configuration(ctx, switch.name, switch, default, flags, None, None);
        }
        Config::Choice(choice) => {
            let default = given.map_or(Ok(choice.default), Choice::parse)?;
            register_enum_configuration(ctx, choice.name, choice, default, ConfigurationFlags::DEFAULT, None, None);
        }
    }
    Ok(())
}

/// Whether the module runs. A server that starts judges its configuration when it knows all of it.
fn is_running() -> bool {
    node::with(|_| ()).is_some()
}

fn check_connection() -> Result<(), String> {
    if !is_running() {
        return Ok(());
    }
    if settings::TLS.is_on() {
        tls::check().map_err(|error| error.to_string())?;
    }
    token::check().map_err(|error| error.to_string())
}

impl ConfigurationValue<i64> for Number {
    fn get(&self, _: &ConfigurationContext) -> i64 {
        self.value() as i64
    }

    fn set(&self, _: &ConfigurationContext, value: i64) -> Result<(), ValkeyError> {
        Number::set(self, value);
        Ok(())
    }
}

impl ConfigurationValue<ValkeyString> for Text {
    fn get(&self, _: &ConfigurationContext) -> ValkeyString {
        ValkeyString::create(None, self.value().as_str())
    }

    fn set(&self, _: &ConfigurationContext, value: ValkeyString) -> Result<(), ValkeyError> {
        let value = value.try_as_str()?;
        (self.check)(value).map_err(ValkeyError::String)?;
        match self.change {
            Change::Restart if is_running() && self.value() != value => {
                return Err(ValkeyError::Str(
                    "a running server cannot change its log: set it in valkey.conf and restart",
                ));
            }
            Change::Checked(check) if is_running() => check(value).map_err(ValkeyError::String)?,
            Change::Free | Change::Restart | Change::Checked(_) => {}
        }
        Text::set(self, value);
        Ok(())
    }
}

/// Why a node of a cluster cannot have that switch so.
fn why_no_cluster(switch: &Switch, is_on: bool) -> Option<&'static str> {
    if !cluster::is_enabled() || settings::MODE.mode() == Mode::Off {
        return None;
    }
    let (failover, replicaof) = (settings::FAILOVER.name, settings::ALLOW_REPLICAOF.name);
    match (switch.name, is_on) {
        (name, false) if name == failover => {
            Some("in cluster mode the log decides who leads: durability.failover stays yes")
        }
        (name, true) if name == replicaof => Some("in cluster mode the server has no REPLICAOF"),
        _ => None,
    }
}

impl ConfigurationValue<bool> for Switch {
    fn get(&self, _: &ConfigurationContext) -> bool {
        self.is_on()
    }

    fn set(&self, _: &ConfigurationContext, is_on: bool) -> Result<(), ValkeyError> {
        if is_on && self.needs_lease {
            if let Some(why) = node::with(|module| module.why_leases_are_not_kept()).flatten() {
                return Err(ValkeyError::String(why));
            }
        }
        if let Some(why) = why_no_cluster(self, is_on).filter(|_| is_running()) {
            return Err(ValkeyError::Str(why));
        }
        Switch::set(self, is_on);
        Ok(())
    }
}

impl ConfigurationValue<Mode> for Choice {
    fn get(&self, _: &ConfigurationContext) -> Mode {
        self.mode()
    }

    fn set(&self, _: &ConfigurationContext, mode: Mode) -> Result<(), ValkeyError> {
        // Before the module is loaded there is nothing to change: the mode is checked when it starts.
        node::with(|module| mode_change::change_mode(module, mode)).unwrap_or(Ok(())).map_err(ValkeyError::String)?;
        Choice::set(self, mode);
        Ok(())
    }
}

impl TryFrom<i32> for Mode {
    type Error = ValkeyError;

    fn try_from(value: i32) -> Result<Self, ValkeyError> {
        Mode::ALL.into_iter().find(|mode| *mode as i32 == value).ok_or(ValkeyError::Str("no such mode"))
    }
}

impl From<Mode> for i32 {
    fn from(mode: Mode) -> i32 {
        mode as i32
    }
}

impl EnumConfigurationValue for Mode {
    fn get_options(&self) -> (Vec<String>, Vec<i32>) {
        Mode::ALL.into_iter().map(|mode| (mode.name().to_owned(), mode as i32)).unzip()
    }
}
