//! The command `cachefs`: see `cachefs --help`.

fn main() -> std::process::ExitCode {
    cachefs::cli::main()
}
