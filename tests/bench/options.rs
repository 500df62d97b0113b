//! The words after `cargo bench --`.

use std::path::{Path, PathBuf};

pub(crate) const USAGE: &str = "\
usage: cargo bench -- [FILTER...] [options]
  FILTER             only operations whose name contains one of these
  --rounds N         rounds per operation (default 5; half as many for installs)
  --quick            a tenth of the files, 3 rounds
  --size MIB         size of the file that is read and written in a stream (default 256)
  --with NAME        also measure: bindfs; \"mount --threads 1\" (a mount with these options); plain (a
                     second plain directory, to see what the benchmark itself gets wrong)
  --without NAME     leave out: mount, requests
  --directory DIR    where the store is made (default target/bench; its filesystem is what is compared)
  --outside DIR      where installs are made (default /dev/shm: in memory, so that what is compared is
                     the cache, and not how fast the disk frees what was installed the round before)
  --output DIR       where the JSON goes (default target/bench)
  --list             the names of the operations";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) filters: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    pub(crate) stream_mib: u64,
    pub(crate) rivals: Vec<String>,
    pub(crate) without: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) outside: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) list: bool,
    pub(crate) help: bool,
}

impl Options {
    pub(crate) fn from_arguments(
        arguments: impl Iterator<Item = String>,
    ) -> Result<Options, String> {
        let bench = target_directory().join("bench");
        let mut options = Options {
            filters: Vec::new(),
            rounds: 0,
            quick: false,
            stream_mib: 0,
            rivals: Vec::new(),
            without: Vec::new(),
            directory: bench.clone(),
            outside: default_outside(&bench),
            output: bench,
            list: false,
            help: false,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // What cargo adds.
                "--bench" | "--nocapture" => {}
                "--quick" => options.quick = true,
                "--list" => options.list = true,
                "--help" | "-h" => options.help = true,
                "--rounds" => options.rounds = number(&argument, &value()?)? as usize,
                "--size" => options.stream_mib = number(&argument, &value()?)?,
                "--with" => options.rivals.push(value()?),
                "--without" => options.without.push(value()?),
                "--directory" => options.directory = value()?.into(),
                "--outside" => options.outside = value()?.into(),
                "--output" => options.output = value()?.into(),
                other if other.starts_with('-') => return Err(format!("unknown option {other}")),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 3 } else { 5 };
        }
        if options.stream_mib == 0 {
            options.stream_mib = if options.quick { 32 } else { 256 };
        }
        Ok(options)
    }

    /// Whether `name` was asked for.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(&**filter))
    }

    /// Whether `--without NAME` was given.
    pub(crate) fn leaves_out(&self, name: &str) -> bool {
        self.without.iter().any(|left_out| left_out == name)
    }
}

fn default_outside(otherwise: &Path) -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { otherwise.to_owned() }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{option} needs a number above 0, not {text:?}")),
    }
}

/// The program that is measured: the one cargo built, or the one that `CACHEFS_TEST_BIN` names.
pub(crate) fn cachefs() -> PathBuf {
    std::env::var_os("CACHEFS_TEST_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cachefs")), PathBuf::from)
}

/// Cargo's target directory: cargo's binary lies two levels below.
pub(crate) fn target_directory() -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_cachefs"));
    binary.ancestors().nth(2).map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Where `tests/setup` put what no distribution packages.
pub(crate) fn tools_directory() -> PathBuf {
    std::env::var_os("CACHEFS_TEST_TOOLS")
        .map_or_else(|| target_directory().join("test-tools"), PathBuf::from)
}
