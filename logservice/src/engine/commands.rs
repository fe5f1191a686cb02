//! The commands of an engine, and which of them a leader can have logged.

use std::collections::HashMap;
use std::sync::Arc;

use durability_protocol::{is_logged, Logged};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

/// The commands of an engine, including those of the modules that it has loaded.
#[derive(Debug, Clone, Default)]
pub struct Commands(Arc<HashMap<String, Logged>>);

impl Commands {
    /// Reads the reply to `COMMAND`.
    ///
    /// # Errors
    /// It has an unknown form.
    pub fn read(reply: &BytesFrame) -> Result<Self, String> {
        let mut found = HashMap::new();
        add(&mut found, reply);
        if found.contains_key("set") {
            Ok(Commands(Arc::new(found)))
        } else {
            Err("the reply has an unknown form".to_owned())
        }
    }

    /// Whether a leader can have logged the command with that full name, in lower case. `None` if there is no such command.
    pub fn find(&self, name: &str) -> Option<Logged> {
        self.0.get(name).copied()
    }
}

fn add(found: &mut HashMap<String, Logged>, entries: &BytesFrame) {
    let BytesFrame::Array(entries) = entries else { return };
    for entry in entries {
        let BytesFrame::Array(fields) = entry else { continue };
        let (Some(name), Some(BytesFrame::Array(flags))) = (fields.first().and_then(Resp2Frame::as_str), fields.get(2))
        else {
            continue;
        };
        let subcommands = fields.get(9);
        let is_container = matches!(subcommands, Some(BytesFrame::Array(subcommands)) if !subcommands.is_empty());
        let has = |flag: &str| flags.iter().any(|one| one.as_str() == Some(flag));
        let name = name.to_ascii_lowercase();
        let logged = is_logged(&name, is_container, has);
        found.insert(name, logged);
        if let Some(subcommands) = subcommands {
            add(found, subcommands);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, flags: &[&str], subcommands: Vec<BytesFrame>) -> BytesFrame {
        let text = |text: &str| BytesFrame::SimpleString(text.to_owned().into());
        let nothing = BytesFrame::Array(Vec::new());
        let mut fields =
            vec![text(name), BytesFrame::Integer(-2), BytesFrame::Array(flags.iter().map(|flag| text(flag)).collect())];
        fields.resize(9, nothing);
        fields.push(BytesFrame::Array(subcommands));
        BytesFrame::Array(fields)
    }

    #[test]
    fn subcommands_have_flags_of_their_own() {
        let function = entry(
            "function",
            &[],
            vec![entry("function|load", &["write", "noscript"], vec![]), entry("function|list", &["noscript"], vec![])],
        );
        let all =
            BytesFrame::Array(vec![entry("SET", &["write"], vec![]), function, entry("debug", &["admin"], vec![])]);
        let commands = Commands::read(&all).unwrap();
        assert_eq!(commands.find("set"), Some(Logged::Yes));
        assert_eq!(commands.find("function"), Some(Logged::BySubcommand));
        assert_eq!(commands.find("function|load"), Some(Logged::Yes));
        assert_eq!(commands.find("function|list"), Some(Logged::Never));
        assert_eq!(commands.find("debug"), Some(Logged::Never));
        assert_eq!(commands.find("nosuch"), None);
        assert!(Commands::read(&BytesFrame::Array(Vec::new())).is_err());
    }
}
