//! Failpoints that change while the service runs, for tests: what is to fail stands in a file, which a test replaces. So a disk becomes slow,
//! full or broken under a service that goes on, and is well again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(10);

/// Does what the file says from now on, and whenever it is another one: `STEP=ACTION` separated by semicolons, in the language of the `fail`
/// crate. Steps that are not named do what they are for, and so do all while there is no file. Replace the file by renaming another one, so
/// that it is never read in part.
///
/// # Panics
/// The file says what nobody understands, or there is no thread to read it.
pub fn watch(path: PathBuf) {
    let mut said = String::new();
    let mut named = BTreeSet::new();
    let mut look = move || {
        let text = read(&path);
        if text != said {
            named = configure(&text, &named);
            eprintln!("failpoints: {}", if text.is_empty() { "none" } else { &text });
            said = text;
        }
    };
    // What a service does first may already be to fail.
    look();
    let reader = move || loop {
        thread::sleep(INTERVAL);
        look();
    };
    thread::Builder::new().name("failpoints".to_owned()).spawn(reader).expect("a thread for the file of failpoints");
}

fn read(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Returns the steps that the text names. `before` are those that do something else than they are for until now.
fn configure(text: &str, before: &BTreeSet<String>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (step, action) = item.split_once('=').unwrap_or_else(|| panic!("failpoints: '{item}' is not STEP=ACTION"));
        fail::cfg(step, action).unwrap_or_else(|error| panic!("failpoint {step}: {error}"));
        named.insert(step.to_owned());
    }
    before.difference(&named).for_each(fail::remove);
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_are_not_named_any_more_do_what_they_are_for() {
        // A name of its own: failpoints are the process's.
        let fails = || {
            fail::fail_point!("of-a-file", |_| true);
            false
        };
        let named = configure("of-a-file=return(eio)", &BTreeSet::new());
        assert!(fails());
        assert!(configure(" ", &named).is_empty() && !fails());
    }
}
