//! `logservice` for tests: what its steps on files do is read from the environment's `FAILPOINTS` and `FAILPOINTS_FILE`.

fn main() -> std::process::ExitCode {
    logservice::store::file_store::files::configure_failpoints();
    logservice::program::run()
}
