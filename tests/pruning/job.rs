//! A job that has used a directory, and goes on until it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::common::ends_with_its_starter;

/// Sees the same before and after, or says what it sees.
pub(crate) struct Job {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// All names, and all that is in files, which are opened for that.
const LOOK: &str = "look() { find . ! -name '*.lock' | LC_ALL=C sort | sha256sum; find . -type f ! -name '*.lock' \
                    -print0 | LC_ALL=C sort -z | xargs -0 -r cat | sha256sum; }";

impl Job {
    /// One that has read everything in `directory`.
    pub(crate) fn begin(directory: &Path) -> Job {
        let script = format!(
            "exec 3< .; {LOOK}; before=$(look); echo ready; read go; after=$(look); [ \"$before\" = \"$after\" ] && echo same \
             || echo \"$after\"; echo done; read end"
        );
        Job::run(directory, &script)
    }

    /// `sh -c SCRIPT`, which has to open something itself to be one job with what it starts, in `directory`, which says `ready` when it is.
    pub(crate) fn run(directory: &Path, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        ends_with_its_starter(&mut command, libc::SIGKILL);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut job = Job { child, input, output: BufReader::new(output) };
        assert_eq!(job.line(), "ready");
        job
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Looks again: nothing has changed for it.
    pub(crate) fn sees_the_same(&mut self) {
        writeln!(self.input, "go").unwrap();
        assert_eq!(self.line(), "same");
        assert_eq!(self.line(), "done");
    }

    pub(crate) fn end(self) {
        let Job { mut child, input, mut output } = self;
        drop(input);
        output.read_to_end(&mut Vec::new()).unwrap();
        child.wait().unwrap();
    }
}
