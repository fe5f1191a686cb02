//! Who may do what: the tokens file, the roles in it, logins, and wrong guesses.

pub mod guesses;
pub mod login;
pub mod roles;
pub mod tokens;
