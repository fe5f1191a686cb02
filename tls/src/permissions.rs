//! Files with secrets that other users can read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A warning if every user of the machine can read or change a file, or its group can change it: the file's path, and what to do.
///
/// # Errors
/// Its mode cannot be read.
pub fn open_to_others(path: &Path) -> io::Result<Option<String>> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    let path = path.display();
    Ok(is_open_to_others(mode)
        .then(|| format!("{path} has mode {mode:04o}: other users of this machine can use it; chmod 600 {path}")))
}

fn is_open_to_others(mode: u32) -> bool {
    mode & 0o026 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_can_use_is_told_from_one_that_they_cannot() {
        for (mode, expected) in
            [(0o600, false), (0o640, false), (0o400, false), (0o644, true), (0o660, true), (0o602, true)]
        {
            assert_eq!(is_open_to_others(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn the_warning_names_the_file_and_says_what_to_do() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let set = |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("set");
        set(0o600);
        assert_eq!(open_to_others(file.path()).expect("read"), None);
        set(0o644);
        let warning = open_to_others(file.path()).expect("read").expect("a warning");
        let path = file.path().display();
        assert_eq!(warning, format!("{path} has mode 0644: other users of this machine can use it; chmod 600 {path}"));
        assert!(open_to_others(&file.path().join("nothing")).is_err());
    }
}
