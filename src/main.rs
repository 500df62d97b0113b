//! The command `cachefs`: see `cachefs --help`.

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    cachefs::cli::main()
}

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    eprintln!("cachefs: there is no command for Windows yet");
    std::process::ExitCode::FAILURE
}
