//! The arguments of `loadmodule`.

use crate::settings::CONFIGS;

/// Arguments of `loadmodule`: pairs of a config's name without `durability.` and its value, all of them valid.
#[derive(Debug)]
pub struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// Checks the words that follow the library's path.
    ///
    /// # Errors
    /// What is wrong with them, for the user to read.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        words.chunks(2).map(pair).collect::<Result<_, _>>().map(Arguments)
    }

    /// The value for the config of that name; the first one if there are several.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn pair(words: &[&str]) -> Result<(String, String), String> {
    let name = words[0];
    let Some(config) = CONFIGS.iter().find(|config| config.name() == name) else {
        let names = CONFIGS.iter().map(|config| config.name()).collect::<Vec<_>>().join(", ");
        return Err(format!("unknown loadmodule argument '{name}': give pairs of one of {names} and its value"));
    };
    let Some(value) = words.get(1) else { return Err(format!("the loadmodule argument '{name}' has no value")) };
    config.check(value).map_err(|why| format!("the loadmodule argument '{name}' is wrong: {why}"))?;
    Ok((name.to_owned(), (*value).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_loadmodule_come_in_known_pairs() {
        assert!(Arguments::parse(&["mode", "async", "log", "h:1"]).is_ok());
        assert!(Arguments::parse(&["mode"]).unwrap_err().contains("has no value"));
        assert!(Arguments::parse(&["speed", "high"]).unwrap_err().contains("unknown"));
        for (name, value) in
            [("mode", "fast"), ("log", "x"), ("shard", "a/b"), ("max-lag-ms", "1"), ("max-pending-bytes", "soon")]
        {
            let why = Arguments::parse(&[name, value]).unwrap_err();
            assert!(why.contains(name) && why.contains(value), "{why}");
        }
    }

    #[test]
    fn a_value_is_not_taken_for_a_name() {
        let arguments = Arguments::parse(&["shard", "auth", "auth", "secret", "shard", "other"]).expect("valid");
        assert_eq!((arguments.value("shard"), arguments.value("auth")), (Some("auth"), Some("secret")));
        assert_eq!(arguments.value("mode"), None);
    }
}
