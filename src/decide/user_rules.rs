//! The rules of a user, as they are compared with those of the same user at another node.

use durability_protocol::SettingsDigest;

/// Adds a user with its rules, as `ACL LIST` shows them: words with spaces between them. Passwords are words that begin with `#`, and their
/// order means nothing.
pub fn add(digest: &mut SettingsDigest, name: &[u8], rules: &[u8]) {
    let words = || rules.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let is_password = |word: &&[u8]| word.starts_with(b"#");
    let mut passwords: Vec<_> = words().filter(is_password).collect();
    passwords.sort_unstable();
    let others = words().filter(|word| !is_password(word));
    digest.add(name);
    let rules: Vec<_> = passwords.into_iter().chain(others).collect();
    digest.add(&rules.join(&b' '));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(users: &[(&str, &str)]) -> String {
        let mut digest = SettingsDigest::new("log");
        users.iter().for_each(|(name, rules)| add(&mut digest, name.as_bytes(), rules.as_bytes()));
        digest.text()
    }

    #[test]
    fn only_the_order_of_passwords_means_nothing() {
        let one = digest(&[("app", "on #aa #bb ~* +@all -get")]);
        assert_eq!(one, digest(&[("app", "on #bb #aa  ~* +@all -get")]));
        for other in ["on #aa ~* +@all -get", "off #aa #bb ~* +@all -get", "on #aa #bb ~* -get +@all", ""] {
            assert_ne!(one, digest(&[("app", other)]), "{other}");
        }
        assert_ne!(one, digest(&[("ap", "on #aa #bb ~* +@all -get")]));
        assert_ne!(digest(&[("a", "on"), ("b", "on")]), digest(&[("a", "on")]));
    }
}
