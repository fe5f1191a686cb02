//! The `logservice` program.

fn main() -> std::process::ExitCode {
    logservice::program::run()
}
