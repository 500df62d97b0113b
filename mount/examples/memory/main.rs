//! Mounts a volume in memory, to try out mounting itself:
//!
//! ```text
//! memory MOUNTPOINT
//! ```
//!
//! On Linux the mountpoint is a directory that exists, on Windows a drive (`X:`) or a directory that does not.
//! It ends when it is unmounted; on Windows at the end of its input, too (Ctrl-Z and Enter).

mod volume;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use volume::Memory;

#[cfg(target_os = "linux")]
fn mount(mountpoint: &Path) -> Result<(), Box<dyn std::error::Error>> {
    use cachefs_mount::fuse::{Options, Transport, Unserved};

    let options = Options {
        source: "memory".into(),
        check_permissions: true,
        threads: 2,
        passthrough: false,
        stacked_store: false,
        read_only: false,
        no_exec: false,
        transport: Transport::Auto,
    };
    let unserved = Unserved::new(mountpoint, &options, None)?;
    let mount = unserved.serve(Arc::new(Memory::default()), &options)?;
    println!("mounted");
    mount.wait();
    Ok(())
}

#[cfg(windows)]
fn mount(mountpoint: &Path) -> Result<(), Box<dyn std::error::Error>> {
    use std::time::Duration;

    use cachefs_mount::winfsp::{Mount, Options};

    let options = Options {
        label: "memory".into(),
        check_permissions: false,
        attributes_valid: Duration::ZERO,
        read_only: false,
        threads: 0,
    };
    let mount = Mount::new(mountpoint, Arc::new(Memory::default()), &options)?;
    println!("mounted");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    mount.unmount();
    mount.wait();
    Ok(())
}

fn main() -> ExitCode {
    let Some(mountpoint) = std::env::args_os().nth(1) else {
        eprintln!("memory: say where to mount: memory MOUNTPOINT");
        return ExitCode::from(2);
    };
    match mount(Path::new(&mountpoint)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memory: {error}");
            ExitCode::FAILURE
        }
    }
}
