//! `DEBUG` can change a server's data without a word to its replicas, and so to its log. On a node that has a log it does not.

use valkey_module::{CallOptionsBuilder, CallResult, Context, ValkeyError, ValkeyResult, ValkeyString, ValkeyValue};

/// Takes the place of `DEBUG POPULATE`.
pub const POPULATE: &str = "durability.populate";

/// What becomes of a `DEBUG` command.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server runs it.
    Runs,
    /// [`POPULATE`] runs instead, with what stands behind the subcommand: the same effect, by writes.
    Populates,
    /// It is refused.
    Refused(String),
}

/// Judges a `DEBUG` command by its arguments, `DEBUG` included. `has_aof`: the server keeps an append-only file.
pub fn judge<'a>(arguments: impl Iterator<Item = &'a [u8]>, has_aof: bool) -> Verdict {
    let mut arguments = arguments.skip(1);
    let subcommand = arguments.next().unwrap_or_default();
    let is = |name: &str| subcommand.eq_ignore_ascii_case(name.as_bytes());
    if is("POPULATE") {
        return Verdict::Populates;
    }
    let refused = |what: &str| {
        Verdict::Refused(format!(
            "ERR durability: DEBUG {what}, which this node's log would not notice: CONFIG SET durability.mode off first \
             if that is what you want; when the mode is set back, the log starts anew from this node's data"
        ))
    };
    if is("RELOAD") && arguments.any(|option| option.eq_ignore_ascii_case(b"NOSAVE")) {
        return refused("RELOAD NOSAVE would exchange the data for that of an old file");
    }
    if is("LOADAOF") && !has_aof {
        return refused("LOADAOF would exchange the data for that of an old file (appendonly is no)");
    }
    if is("REPLICATE") {
        return Verdict::Refused(
            "ERR durability: DEBUG REPLICATE would write commands into this node's log that it does not run itself"
                .to_owned(),
        );
    }
    Verdict::Runs
}

/// `DEBUG POPULATE count [prefix] [size]`, by SETs: makes the keys that do not exist yet.
pub fn populate(ctx: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    let number = |argument: &ValkeyString| {
        argument
            .to_string_lossy()
            .parse::<usize>()
            .map_err(|_| ValkeyError::Str("ERR value is out of range, must be positive"))
    };
    let (count, prefix, size) = match &arguments[..] {
        [_, count] => (number(count)?, b"key".as_slice(), None),
        [_, count, prefix] => (number(count)?, prefix.as_slice(), None),
        [_, count, prefix, size] => (number(count)?, prefix.as_slice(), Some(number(size)?).filter(|size| *size > 0)),
        _ => return Err(ValkeyError::WrongArity),
    };
    let options = CallOptionsBuilder::new().replicate().errors_as_replies().build();
    for index in 0..count {
        let key = [prefix, format!(":{index}").as_bytes()].concat();
        let mut value = format!("value:{index}").into_bytes();
        if let Some(size) = size {
            value.resize(size, 0);
        }
        let set: CallResult = ctx.call_ext("SET", &options, &[key.as_slice(), value.as_slice(), b"NX".as_slice()]);
        set.map_err(|error| ValkeyError::String(error.to_utf8_string().unwrap_or_default()))?;
    }
    Ok(ValkeyValue::SimpleStringStatic("OK"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(command: &str, has_aof: bool) -> Verdict {
        judge(command.split(' ').map(str::as_bytes), has_aof)
    }

    #[test]
    fn what_would_change_data_behind_the_logs_back_does_not_run() {
        assert_eq!(verdict("DEBUG populate 10 key 5", false), Verdict::Populates);
        for command in
            ["debug reload NOSAVE", "DEBUG RELOAD merge noflush nosave", "DEBUG LOADAOF", "DEBUG Replicate set a b"]
        {
            assert!(matches!(verdict(command, false), Verdict::Refused(_)), "{command}");
        }
    }

    #[test]
    fn the_rest_runs() {
        for command in ["debug reload", "DEBUG RELOAD MERGE NOFLUSH", "debug", "DEBUG DIGEST", "DEBUG SLEEP 0"] {
            assert_eq!(verdict(command, false), Verdict::Runs, "{command}");
        }
        // What is in the file is what is in memory.
        assert_eq!(verdict("DEBUG LOADAOF", true), Verdict::Runs);
    }
}
